"""Train a classifier on labelled images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..backbones import check_starts, name_starts
from ..checkpoints import refuse_inputs, sole_writer
from ..console import say, settings_table
from ..datasets.leakage import tell_of_leakage
from ..datasets.lists import read_text
from ..datasets.scan import LISTS
from ..engine.launch import count_processes, share_of_batch
from .classifiers import (
    Classification,
    Classifiers,
    ClassifierTrainings,
    begin_run,
    read_config,
    settings_of,
    summarise,
    train_classifier,
)
from .notes import check_folder, refuse_run, refuse_study
from .study import Study, check_extent, run_study

_WRITTEN = (*LISTS, 'train.txt', 'val.txt', 'leakage.csv', 'predictions.csv', 'init/*.pth')
_MACHINE = ('workers', 'amp', 'gpus')  # what is free on resuming
_WORDS = dict(backbone=('random',), labels=('folders', 'cls'))  # in the place of a path


@sole_writer
def classify(
    images: str | Path,
    backbone: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    val: str | Path | None = None,
    image_root: str | Path | None = None,
    compare: str | Path | Sequence[str | Path] = (),
    fractions: Sequence[float] | None = None,
    seeds: int | None = None,
    frozen: bool = False,
    size: int | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    flip: bool = True,
    workers: int = 2,
    amp: str | None = None,
    seed: int = 0,
    gpus: int | None = None,
    resume: bool = False,
) -> Classification | Study:
    """Train a classifier from a pretrained backbone, and measure it.

    ``out`` receives ``config.py``, which ``tools/train.py`` runs again, lists of the images,
    ``training/``, ``predictions.csv`` of the validation, pictures and ``summary.md``.

    Args:
        images: Labelled images: a folder, tar, text or COCO json file, or a csv with the columns
            ``path`` and ``label``. A folder with ``train`` and ``val`` in it is parted by these.
        backbone: Checkpoint with any backbone; ``'random'``: random weights, of the architecture
            of the first in ``compare`` that is a checkpoint, or of a ResNet-50.
        out: Folder to write into.
        labels: ``'folders'``, where folder names are classes, ``'cls'``, where tars have
            ``.cls`` files, or a csv file; by default those of a csv, or else folder names.
        val: Images to validate on; by default a fifth of each class is drawn.
        image_root: Folder from which paths in text, json and csv files are meant;
            by default the folder of the file.
        compare: ``'random'`` or other checkpoints; the same is trained from each.
        fractions: Percents of the training images; the same is trained on so many of them, for
            each of ``seeds``. Without this and ``seeds``, once on all of them.
        seeds: How many seeds, from ``seed`` on, draw these images and train; 3 by default.
        frozen: Whether only a linear classifier of the representation learns.
        size: Edge of the images in pixels; by default that of pretraining.
        epochs: How often each image is seen.
        batch: Images in a step of all processes.
        lr: Learning rate.
        flip: Whether to mirror training images at random.
        workers: Processes that load images, for each that trains.
        amp: As for :func:`mmsnclr.api.pretrain.pretrain`.
        seed: Seed of the split and the training.
        gpus: How many processes train, as for :func:`mmsnclr.api.pretrain.pretrain`.
        resume: Whether to continue what is in ``out`` by the arguments that began it; another
            ``workers``, ``gpus`` or, unless it is a study, ``amp`` is for this part of it alone.

    Returns:
        Where the classifier is and how good it is; with ``fractions`` or ``seeds``, what all
        trainings came to.

    Raises:
        FileNotFoundError, ChildProcessError: If a file is not there; if a process was killed.
        ValueError: If labels or settings are wrong, or ``out`` holds another run.
    """
    arguments = {name: _plain(name, value) for name, value in locals().items()}
    out, processes = Path(arguments.pop('out')), count_processes(gpus)
    for name in ('resume', 'fractions', 'seeds'):
        del arguments[name]
    extent = check_extent(fractions, seeds)
    init_default_scope('mmpretrain')
    names = name_starts(arguments['backbone'], arguments['compare'])
    share_of_batch(batch or 0, processes)
    if extent is not None:
        notes = check_folder(out, _WRITTEN, arguments, names, processes, resume)
        check_starts(backbone=[arguments['backbone']], compare=arguments['compare'])
        classifiers = Classifiers.read(out, names, arguments, notes['processes'], notes)
        leakage = _leakage(out, names)
        trainings = ClassifierTrainings(classifiers, leakage, processes)
        return run_study(trainings, out, extent, notes)
    return _classify(out, names, arguments, processes, resume)


def _classify(
    out: Path, names: dict[str, str], arguments: dict, processes: int, resume: bool
) -> Classification:
    """Train once from each start."""
    refuse_study(out)
    # The first is what was asked for.
    folders = {name: out / name if number else out for number, name in enumerate(names)}
    if not _is_begun(out, arguments, resume):
        refuse_inputs(out, _WRITTEN, arguments)
        check_starts(backbone=[arguments['backbone']], compare=arguments['compare'])
        _begin(Classifiers.read(out, names, arguments, processes), folders)
    leakage = _leakage(out, names)
    runs = {
        name: train_classifier(folder, out, name, arguments) for name, folder in folders.items()
    }
    configs = {name: Config.fromfile(folder / 'config.py') for name, folder in folders.items()}
    classification, table = summarise(out, configs, runs, leakage)
    say(f'\n{table}\nAll of it: {classification.summary}')
    return classification


def _leakage(out: Path, names: dict[str, str]) -> str:
    train, val = (
        [Path(line) for line in read_text(out / f'{part}.txt').splitlines()]
        for part in ('train', 'val')
    )
    return tell_of_leakage(out, train, val, list(names.values()))


def _plain(name: str, value: Any) -> Any:
    """A value that a config can hold, paths being absolute."""
    if name == 'compare':
        value = [value] if isinstance(value, str | Path) else value
        return [_plain('backbone', path) for path in value]
    if name in ('images', 'labels', 'backbone', 'out', 'val', 'image_root') and value is not None:
        return value if value in _WORDS.get(name, ()) else os.path.abspath(value)
    return value


def _is_begun(out: Path, arguments: dict, resume: bool) -> bool:
    """Whether the run is in a folder, begun by the same arguments."""
    config = out / 'config.py'
    if not config.exists():
        return False
    refuse_run(out, resume)
    cfg = Config.fromfile(config)
    if 'arguments' not in cfg or cfg.model.type != 'ImageClassifier':
        raise ValueError(f'out={str(out)!r} holds no classifier: choose another folder')
    began = read_config(out, out).arguments
    for name, value in arguments.items():
        before = began.get(name)
        if name not in _MACHINE and value != before:
            raise ValueError(
                f'{name}={value!r} differs from {before!r}, with which the run in {out} was '
                'started: pass with --resume what it was started with, or choose another --out'
            )
    return True


def _begin(classifiers: Classifiers, folders: dict[str, Path]) -> None:
    """Write the config of each run."""
    configs = {name: classifiers.fit(name) for name in folders}
    say(settings_table(settings_of(next(iter(configs.values())))))
    # The folder's own last: with it, all is there.
    for name, folder in reversed(folders.items()):
        weights = classifiers.write_weights(name, folder / 'init' / 'backbone.pth')
        begin_run(folder, configs[name], weights)
