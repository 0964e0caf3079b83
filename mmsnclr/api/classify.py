"""Train a classifier on labelled images."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import init_default_scope

from ..backbones import check_starts
from ..checkpoints import sole_writer
from ..console import Setting, say, settings_table
from ..datasets.labelled import list_labelled, scan_labelled
from ..datasets.leakage import tell_of_leakage
from ..datasets.listing import read_text
from ..engine import build_runner
from ..engine.launch import count_processes, launch, share_of_batch
from ..engine.optim import set_amp
from ..engine.run import write_config
from ..evaluation.classification import (
    Accuracies,
    Predictions,
    rate,
    read_predictions,
    write_predictions,
)
from ..parents import only_progress, quiet
from ..recipes.classification import (
    Start,
    fit_to_backbone,
    fit_to_epochs,
    fit_to_files,
    fit_to_images,
    fit_to_run,
    load_classifier,
    random_start,
    read_start,
    set_workers,
)
from ..visualization import plot_confusion_matrix, write_mistakes_page
from ..visualization.classification_summary import accuracy_table, classification_summary

_MACHINE = ('workers', 'amp', 'gpus')  # what is free on resuming
_WORDS = dict(backbone=('random',), labels=('folders', 'cls'))  # in the place of a path


class Classification(NamedTuple):
    """What :func:`classify` made.

    Attributes:
        checkpoint: The trained classifier, for :func:`mmsnclr.api.predict.predict`.
        results: How good each run's classifier is, the first being that from the
            given backbone.
        summary: A file that tells all of it.
    """

    checkpoint: Path
    results: dict[str, Accuracies]
    summary: Path


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
) -> Classification:
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
            ``workers``, ``amp`` or ``gpus`` is for this part of it alone.

    Returns:
        Where the classifier is and how good it is.

    Raises:
        FileNotFoundError, ChildProcessError: If a file is not there; if a process was killed.
        ValueError: If labels or settings are wrong, or ``out`` holds another run.
    """
    arguments = {name: _plain(name, value) for name, value in locals().items()}
    out, processes = Path(arguments.pop('out')), count_processes(gpus)
    del arguments['resume']
    init_default_scope('mmpretrain')
    names = _name_runs(arguments)
    share_of_batch(batch or 0, processes)
    if not _is_begun(out, arguments, resume):
        check_starts(backbone=[arguments['backbone']], compare=arguments['compare'])
        _begin(out, names, arguments, processes)
    parts = (map(Path, read_text(out / f'{part}.txt').splitlines()) for part in ('train', 'val'))
    leakage = tell_of_leakage(out, *map(list, parts), list(names.values()))
    # The first is what was asked for.
    folders = {name: out / name if number else out for number, name in enumerate(names)}
    runs = {name: _train(folder, name, arguments) for name, folder in folders.items()}
    configs = {name: Config.fromfile(folder / 'config.py') for name, folder in folders.items()}
    return _summarise(out, configs, runs, leakage)


def _plain(name: str, value: Any) -> Any:
    """A value that a config can hold, paths being absolute."""
    if name == 'compare':
        value = [value] if isinstance(value, str | Path) else value
        return [_plain('backbone', path) for path in value]
    if name in ('images', 'labels', 'backbone', 'out', 'val', 'image_root') and value is not None:
        return value if value in _WORDS.get(name, ()) else os.path.abspath(value)
    return value


def _name_runs(arguments: dict) -> dict[str, str]:
    """What each run starts from, by its name; the first is what is asked for."""
    sources = [arguments['backbone'], *arguments['compare']]
    twice = [source for source in sources if sources.count(source) > 1]
    if twice:
        raise ValueError(f'{twice[0]!r} is given twice in backbone and compare: leave one out')
    others = [source for source in sources[1:] if source != 'random']
    names = {source: f'compared_{n}' if n > 1 else 'compared' for n, source in enumerate(others, 1)}
    names = {arguments['backbone']: 'pretrained'} | names | dict(random='random')
    return {names[source]: source for source in sources}


def _is_begun(out: Path, arguments: dict, resume: bool) -> bool:
    """Whether the run is in a folder, begun by the same arguments."""
    config = out / 'config.py'
    if not config.exists():
        return False
    if not resume:
        raise ValueError(
            f'out={str(out)!r} holds a run already: choose another folder, or pass --resume '
            'to continue what was interrupted'
        )
    cfg = Config.fromfile(config)
    if cfg.model.type != 'ImageClassifier' or 'arguments' not in cfg:
        raise ValueError(f'out={str(out)!r} holds no classifier: choose another folder')
    for name, value in arguments.items():
        before = cfg.arguments.get(name)
        if name not in _MACHINE and value != before:
            raise ValueError(
                f'{name}={value!r} differs from {before!r}, with which the run in {out} was '
                'started: pass with --resume what it was started with, or choose another --out'
            )
    return True


def _begin(out: Path, names: dict[str, str], arguments: dict, processes: int) -> None:
    """Read the set, and write the config of each run."""
    cfg = load_classifier()
    set_amp(cfg, arguments['amp'])
    _check_least(arguments)
    with quiet():
        starts = _read_starts(names, arguments['size'])
    seed = arguments['seed']
    classes, val = list_labelled(
        *(arguments[name] for name in ('images', 'labels', 'val', 'image_root'))
    )
    images = scan_labelled(out, classes, val, seed)
    edge = next(iter(starts.values())).edge
    settings = fit_to_images(cfg, images, edge, arguments['size'], arguments['flip'])
    settings += fit_to_epochs(
        cfg, len(images.train), arguments['epochs'], arguments['batch'], processes
    )
    fit_to_files(cfg, out, images.classes, arguments['workers'], seed)
    configs = {
        name: _fit_run(out / name if number else out, cfg, start, settings, arguments)
        for number, (name, start) in enumerate(starts.items())
    }
    say(settings_table(_settings(configs[next(iter(names))])))
    # The folder's own last: with it, all is there.
    for fitted in reversed(configs.values()):
        write_config(fitted, Path(fitted.work_dir).with_name('config.py'))


def _check_least(arguments: dict) -> None:
    for name, least in dict(epochs=1, batch=2, size=16, workers=0).items():
        if arguments[name] is not None and arguments[name] < least:
            raise ValueError(f'{name}={arguments[name]} must be at least {least}')
    if arguments['lr'] is not None and not arguments['lr'] > 0:
        raise ValueError(f'lr={arguments["lr"]} must be above 0')


def _read_starts(names: dict[str, str], size: int | None) -> dict[str, Start]:
    """What each run starts from, all for images of one size: by default the first's."""
    starts = {}
    for name, source in names.items():
        if source != 'random':
            starts[name] = read_start(source, size)
            size = size or starts[name].edge
    like = next(iter(starts.values()), None)
    return {name: starts.get(name) or random_start(like) for name in names}


def _fit_run(
    folder: Path, cfg: Config, start: Start, settings: list[Setting], arguments: dict
) -> Config:
    """The config of a run; its first weights are written beside it."""
    cfg, weights = copy.deepcopy(cfg), None
    settings = settings + fit_to_backbone(cfg, start, arguments['frozen'], arguments['lr'])
    folder.mkdir(parents=True, exist_ok=True)
    if start.pretrained:
        weights = folder / 'init' / 'backbone.pth'
        weights.parent.mkdir(exist_ok=True)
        content = dict(state_dict=start.network.state_dict(), meta=dict(source=start.source))
        torch.save(content, weights)
    fit_to_run(cfg, folder / 'training', weights)
    cfg.settings = [list(setting) for setting in settings]
    cfg.source, cfg.arguments = start.source, arguments
    return cfg


def _settings(cfg: Config) -> list[Setting]:
    """What was chosen of a run, as its config tells it."""
    return [Setting(*setting) for setting in cfg.settings]


def _train(folder: Path, name: str, arguments: dict) -> tuple[Path, Predictions]:
    """Train to the end and predict the validation set, or what is left to do of it."""
    cfg = Config.fromfile(folder / 'config.py')
    work_dir = Path(cfg.work_dir)
    say(f'Training from the {name} backbone by {folder / "config.py"}; logs are in {work_dir}')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        set_workers(loader, arguments['workers'])
    set_amp(cfg, arguments['amp'])
    processes = count_processes(arguments['gpus'])
    share_of_batch(cfg.train_dataloader.batch_size, processes)
    # A process may have few images; mmengine joins BN's statistics on GPUs alone.
    cfg.sync_bn, cfg.launcher = 'torch', 'pytorch' if processes > 1 else 'none'
    cfg.default_hooks.preemption = dict(type='PreemptionHook', interrupt=True)
    predictions = work_dir / 'predictions.pkl'
    draft = str(predictions.with_suffix('.draft.pkl'))
    cfg.test_evaluator.append(dict(type='DumpResults', out_file_path=draft))
    launch(processes, _run, cfg, predictions)
    return work_dir / f'epoch_{cfg.train_cfg.max_epochs}.pth', read_predictions(predictions)


def _run(cfg: Config, predictions: Path) -> None:
    with only_progress():
        runner = build_runner(cfg)
        runner.train()
        if not predictions.exists():
            runner.test()
            if is_main_process():  # they are whole
                os.replace(runner.test_evaluator.metrics[-1].out_file_path, predictions)


def _summarise(
    out: Path,
    configs: dict[str, Config],
    runs: dict[str, tuple[Path, Predictions]],
    leakage: str,
) -> Classification:
    """Write tables, pictures and summary, and tell of them."""
    first = next(iter(runs))
    checkpoint, predictions = runs[first]
    classes = list(configs[first].val_dataloader.dataset.classes)
    results = {name: rate(found, classes) for name, (_, found) in runs.items()}
    for path, found in runs.values():
        write_predictions(found, classes, path.parents[1] / 'predictions.csv')
    plot_confusion_matrix(results[first].confusion, classes, out / 'confusion_matrix.png')
    write_mistakes_page(predictions, classes, out / 'mistakes.html')
    settings = {name: _settings(cfg) for name, cfg in configs.items()}
    classifiers = {name: (configs[name].source, path) for name, (path, _) in runs.items()}
    summary = out / 'summary.md'
    summary.write_text(
        classification_summary(results, settings, classifiers, leakage, out), encoding='utf-8'
    )
    say(f'\n{accuracy_table(results)}\nAll of it: {summary}')
    return Classification(checkpoint, results, summary)
