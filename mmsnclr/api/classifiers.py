"""Classifiers that are trained and measured alike from several starts, on a set or parts of it."""

import os
from collections.abc import Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.dist import is_main_process

from ..checkpoints import save_whole, write_text
from ..console import Setting, check_least, check_positive, say
from ..datasets.labelled import LabelledImages, list_labelled, scan_labelled
from ..datasets.views import view_levels
from ..engine import build_runner
from ..engine.launch import count_processes, launch, set_processes
from ..engine.optim import set_amp
from ..engine.run import relocated, write_config
from ..evaluation.classification import (
    Accuracies,
    Predictions,
    rate,
    read_predictions,
    resample_accuracy,
    write_predictions,
)
from ..evaluation.study import Measured, draw_images
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
from .notes import note_classes
from .study import Subset


class Classification(NamedTuple):
    """What :func:`~.classify.classify` made.

    Attributes:
        checkpoint: The trained classifier, for :func:`mmsnclr.api.predict.predict`.
        results: How good each run's classifier is, the first being that from the
            given backbone.
        summary: A file that tells all of it.
    """

    checkpoint: Path
    results: dict[str, Accuracies]
    summary: Path


class Classifiers(NamedTuple):
    """Classifiers to be trained alike from several starts.

    Attributes:
        starts: What each run starts from, by its name, what is asked for first.
        images: The set.
        out: Folder of its lists.
        arguments: Of :func:`~.classify.classify`.
        processes: How many the settings are chosen for.
    """

    starts: dict[str, Start]
    images: LabelledImages
    out: Path
    arguments: dict
    processes: int

    @classmethod
    def read(
        cls,
        out: Path,
        names: dict[str, str],
        arguments: dict,
        processes: int,
        notes: dict | None = None,
    ) -> 'Classifiers':
        """Read set and starts; lists of the images are written into the folder.

        Of a study, the classes are compared with its ``notes`` before.
        """
        check_least(arguments, epochs=1, batch=2, size=16, workers=0, seed=0)
        check_positive(arguments, 'lr')
        with quiet():
            starts = _read_starts(names, arguments['size'])
        classes, val = list_labelled(
            *(arguments[name] for name in ('images', 'labels', 'val', 'image_root'))
        )
        if notes is not None:
            note_classes(out, notes, classes.items())
        images = scan_labelled(out, classes, val, arguments['seed'])
        return cls(starts, images, out, arguments, processes)

    def fit(self, name: str) -> Config:
        """The config of a run, but for where it is; ``settings`` in it says what was chosen."""
        cfg, given, start = load_classifier(), self.arguments, self.starts[name]
        set_amp(cfg, given['amp'])
        edge = next(iter(self.starts.values())).edge
        settings = fit_to_images(cfg, self.images, edge, given['size'], given['flip'])
        settings += fit_to_epochs(
            cfg, len(self.images.train), given['epochs'], given['batch'], self.processes
        )
        fit_to_files(cfg, self.out, self.images.classes, given['workers'], given['seed'])
        settings += fit_to_backbone(cfg, start, given['frozen'], given['lr'])
        cfg.settings = [list(setting) for setting in settings]
        cfg.source, cfg.arguments = start.source, given
        return cfg

    def write_weights(self, name: str, path: Path) -> Path | None:
        """Write what a run starts from; ``None`` if that is random."""
        start = self.starts[name]
        if not start.pretrained:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        content = dict(state_dict=start.network.state_dict(), meta=dict(source=start.source))
        save_whole(content, path)
        return path


def begin_run(folder: Path, cfg: Config, weights: Path | None) -> None:
    """Write the config of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    fit_to_run(cfg, folder / 'training', weights)
    write_config(cfg, folder / 'config.py')


class ClassifierTrainings:
    """Classifiers of a study, as :class:`.study.Trainings` describes it.

    Args:
        classifiers: How they are trained.
        leakage: What of the validation set was seen before, in words.
        processes: How many train.
    """

    title = 'Classifier'

    def __init__(self, classifiers: Classifiers, leakage: str, processes: int) -> None:
        self._classifiers, self.leakage, self.processes = classifiers, leakage, processes
        self._train = list(classifiers.images.train.items())
        self.classes: Sequence[Collection[Hashable]] = [{name} for _, name in self._train]
        self.validated = len(classifiers.images.val)
        self.starts = {name: start.source for name, start in classifiers.starts.items()}
        # All are measured on the same.
        _write_list(classifiers.out / 'subsets' / 'val.txt', classifiers.images.val)
        folder = classifiers.out / 'init'
        self._weights = {
            name: classifiers.write_weights(name, folder / f'{name}.pth') for name in self.starts
        }

    def write(self, subset: Subset) -> None:
        """Write the list of a subset, or check that which is there."""
        part = self._part(subset)
        missing = set(self._classifiers.images.classes) - set(part.values())
        if missing:
            raise ValueError(
                f'fractions: {subset.percent:g} % are {len(part)} images, fewer than the '
                f'{len(self._classifiers.images.classes)} classes'
            )
        _write_list(_listed(subset), part)

    def fit(self, start: str, subset: Subset) -> tuple[Config, Setting]:
        """The config of a training, and how long it is."""
        classifiers = self._classifiers
        cfg = classifiers._replace(
            images=classifiers.images._replace(train=self._part(subset)),
            arguments=classifiers.arguments | dict(seed=subset.seed),
        ).fit(start)
        cfg.train_dataloader.dataset.ann_file = str(_listed(subset))
        (length,) = (setting for setting in settings_of(cfg) if setting.name == 'epochs')
        return cfg, length

    def train(self, start: str, subset: Subset, folder: Path) -> dict[str, Measured]:
        """Train to the end and measure, or what is left to do of it."""
        if not (folder / 'config.py').exists():
            cfg, _ = self.fit(start, subset)
            begin_run(folder, cfg, self._weights[start])
        classifiers = self._classifiers
        run = train_classifier(folder, classifiers.out, start, classifiers.arguments)
        cfg = Config.fromfile(folder / 'config.py')
        classification, _ = summarise(folder, {start: cfg}, {start: run}, self.leakage)
        accuracies = classification.results[start]
        draws = draw_images(self.validated)
        resampled = resample_accuracy(accuracies.right, run[1].labels, draws)
        return {
            f'{name} accuracy': Measured(value, values.round(4).tolist())
            for name, value, values in zip(
                ('top-1', 'balanced'), (accuracies.top1, accuracies.balanced), resampled.T
            )
        }

    def _part(self, subset: Subset) -> dict[Path, str]:
        return dict(self._train[number] for number in subset.numbers)


def _listed(subset: Subset) -> Path:
    return subset.file.with_name(f'{subset.file.name}.txt')


def _write_list(file: Path, paths: Iterable[Path]) -> None:
    """Write a list of images, or check that which is there."""
    lines = ''.join(f'{path}\n' for path in paths)
    if file.exists() and file.read_text('utf-8') != lines:
        raise ValueError(f'{file} was written with other images: choose another --out')
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, lines)


def _read_starts(names: dict[str, str], size: int | None) -> dict[str, Start]:
    """What each run starts from, all for images of one size: by default the first's."""
    starts = {}
    for name, source in names.items():
        if source != 'random':
            starts[name] = read_start(source, size)
            size = size or starts[name].edge
    like = next(iter(starts.values()), None)
    return {name: starts.get(name) or random_start(like) for name in names}


def settings_of(cfg: Config) -> list[Setting]:
    """What was chosen of a run, as its config tells it."""
    return [Setting(*setting) for setting in cfg.settings]


def read_config(folder: Path, out: Path) -> Config:
    """The config of a run, with the paths as they are after ``out`` was moved or copied."""
    cfg, work_dir = Config.fromfile(folder / 'config.py'), folder / 'training'
    before = cfg.work_dir.removesuffix(f'/{work_dir.relative_to(out)}')
    if before not in (str(out), cfg.work_dir):
        cfg = relocated(cfg, out, before)
        fit_to_run(cfg, work_dir, None)  # its weights are relocated
    return cfg


def train_classifier(
    folder: Path, out: Path, name: str, arguments: dict
) -> tuple[Path, Predictions]:
    """Train to the end and predict the validation set, or what is left to do of it.

    Args:
        folder: Of the run.
        out: Where the lists of images are.
        name: Of what it starts from.
        arguments: Of :func:`~.classify.classify`.
    """
    cfg, config = read_config(folder, out), folder / 'config.py'
    if cfg.filename is None:  # it is not as in the file
        write_config(cfg, config)
        cfg = Config.fromfile(config)
    work_dir = Path(cfg.work_dir)
    say(f'Training from the {name} backbone by {config}; logs are in {work_dir}')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        set_workers(loader, arguments['workers'])
    set_amp(cfg, arguments['amp'])
    processes = count_processes(arguments['gpus'])
    set_processes(cfg, processes)
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


def summarise(
    out: Path,
    configs: dict[str, Config],
    runs: dict[str, tuple[Path, Predictions]],
    leakage: str,
) -> tuple[Classification, str]:
    """Write tables, pictures and summary; what was made, and a table of it."""
    first = next(iter(runs))
    checkpoint, predictions = runs[first]
    classes = list(configs[first].val_dataloader.dataset.classes)
    results = {name: rate(found, classes) for name, (_, found) in runs.items()}
    for path, found in runs.values():
        file = path.parents[1] / 'predictions.csv'
        write_predictions(file, classes, found.paths, found.scores, found.labels)
    plot_confusion_matrix(results[first].confusion, classes, out / 'confusion_matrix.png')
    levels = view_levels(configs[first])
    write_mistakes_page(predictions, classes, out / 'mistakes.html', levels)
    settings = {name: settings_of(cfg) for name, cfg in configs.items()}
    classifiers = {name: (configs[name].source, path) for name, (path, _) in runs.items()}
    summary = out / 'summary.md'
    write_text(summary, classification_summary(results, settings, classifiers, leakage, out))
    return Classification(checkpoint, results, summary), accuracy_table(results)
