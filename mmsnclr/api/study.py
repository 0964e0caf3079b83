"""What a start is worth: trainings over numbers of labelled images and seeds, and their summary."""

import json
import time
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..checkpoints import forget_optimizer, write_text
from ..console import Setting, duration, say, settings_table
from ..datasets.subsets import stratified_order
from ..engine.cost import seconds_per_step, seconds_per_test
from ..engine.launch import share_of_batch, threads_of_a_process
from ..evaluation.study import Measured, Point, compare_runs
from ..parents import only_progress
from ..visualization.learning_curve import plot_learning_curves
from ..visualization.study_summary import points_csv, study_summary, study_table, verdicts
from .notes import NOTES

_SEEDS = 3
_LIMIT = 2.0  # seconds that are measured


class Study(NamedTuple):
    """What trainings over numbers of labelled images and seeds came to.

    Attributes:
        points: Each measure for each start and number of labelled images.
        summary: A file that tells all of it.
    """

    points: list[Point]
    summary: Path


class Subset(NamedTuple):
    """Labelled images that are learned from.

    Attributes:
        percent: Their share of all.
        seed: What they were drawn by.
        numbers: Which they are, rising.
        file: Where they are listed; its suffix is to be added.
    """

    percent: float
    seed: int
    numbers: list[int]
    file: Path


class Trainings(Protocol):
    """What is trained.

    Attributes:
        title: What it is called.
        starts: What each start is, by its name, the first being that in question.
        classes: Those of each labelled image.
        validated: Number of validation images.
        leakage: What of these was seen before, in words.
        processes: How many train.
    """

    title: str
    starts: dict[str, str]
    classes: Sequence[Collection[Hashable]]
    validated: int
    leakage: str
    processes: int

    def write(self, subset: Subset) -> None:
        """Write the list of a subset, or check that it is that which is there."""

    def fit(self, start: str, subset: Subset) -> tuple[Config, Setting]:
        """The config of a training, and how long it is."""

    def train(self, start: str, subset: Subset, folder: Path) -> dict[str, Measured]:
        """Train to the end, or what is left to do of it, and measure."""


def check_extent(
    fractions: Sequence[float] | None, seeds: int | None
) -> tuple[list[float], int] | None:
    """What a study extends over, ``None`` if there is to be none.

    Raises:
        ValueError: If a share of the labelled images is none, or there is no seed.
    """
    if fractions is None and seeds is None:
        return None
    fractions = sorted({float(percent) for percent in fractions or (100,)})
    seeds = _SEEDS if seeds is None else seeds
    if not fractions or not all(0 < percent <= 100 for percent in fractions):
        raise ValueError(f'fractions={fractions} must be percents above 0, 100 at most')
    if seeds < 1:
        raise ValueError(f'seeds={seeds} must be at least 1')
    return fractions, seeds


def run_study(
    trainings: Trainings, out: Path, extent: tuple[list[float], int], notes: dict
) -> Study:
    """Train from each start on each number of labelled images by each seed, and sum up.

    What is finished is not trained again. The summary is written after each training.

    Args:
        trainings: What is trained.
        out: Folder to write into.
        extent: Percents of the labelled images, rising, and the number of seeds.
        notes: As of :func:`~.notes.check_folder`.

    Raises:
        KeyboardInterrupt, SystemExit: If it was interrupted, after saying what it came to so far.
        ValueError: If a share of the labelled images is too small.
    """
    subsets = _draw(trainings.classes, *extent, notes['arguments']['seed'], out / 'subsets')
    for subset in subsets:
        trainings.write(subset)
    plan = {
        (start, subset.percent, subset.seed): subset
        for subset in subsets
        for start in trainings.starts
    }
    runs = {key: _read(_folder(out, *key)) for key in plan if _finished(_folder(out, *key))}
    left = {key: subset for key, subset in plan.items() if key not in runs}
    lengths = _tell_plan(trainings, subsets, len(runs))
    seconds = _estimate(trainings, left)
    write_text(out / NOTES, json.dumps(notes, indent=1))
    begin, done, study = time.perf_counter(), 0.0, None
    try:
        for key, subset in left.items():
            start, percent, seed = key
            images = f'{len(subset.numbers):,} labelled images ({percent:g} %)'
            say(f'\nTraining {len(runs) + 1} of {len(plan)}: {start}, {images}, seed {seed}')
            runs[key] = trainings.train(start, subset, _folder(out, *key))
            _write(_folder(out, *key), runs[key])
            for checkpoint in _folder(out, *key).glob('training/*.pth'):
                forget_optimizer(checkpoint)  # there are many of them
            study = _summarise(trainings, out, runs, plan, lengths)
            done += seconds[key]
            rest = sum(seconds.values()) - done
            if rest > 0:
                passed = time.perf_counter() - begin
                say(
                    f'{len(runs)} of {len(plan)} are finished, about '
                    f'{duration(rest * passed / done)} to go'
                )
    finally:
        if runs:
            study = study or _summarise(trainings, out, runs, plan, lengths)
            _tell(study, len(runs), len(plan))
    assert study is not None  # a plan has a run
    return study


def _draw(
    classes: Sequence[Collection[Hashable]],
    fractions: Sequence[float],
    seeds: int,
    seed: int,
    folder: Path,
) -> list[Subset]:
    """The subsets of each seed, the small ones first; each is a part of the next."""
    subsets = []
    for number in range(seed, seed + seeds):
        order = stratified_order(classes, number)
        for percent in fractions:
            count = round(len(order) * percent / 100)
            if count < 2:
                raise ValueError(
                    f'fractions: {percent:g} % of {len(order):,} labelled images are {count}, too '
                    'few to learn from'
                )
            file = folder / f'{percent:g}' / str(number)
            subsets.append(Subset(percent, number, sorted(order[:count]), file))
    return subsets


def _folder(out: Path, start: str, percent: float, seed: int) -> Path:
    return out / 'runs' / start / f'{percent:g}' / str(seed)


def _finished(folder: Path) -> bool:
    return (folder / 'measures.json').exists()


def _read(folder: Path) -> dict[str, Measured]:
    measures = json.loads((folder / 'measures.json').read_text('utf-8'))
    return {name: Measured(**measured) for name, measured in measures.items()}


def _write(folder: Path, measures: dict[str, Measured]) -> None:
    content = {name: measured._asdict() for name, measured in measures.items()}
    write_text(folder / 'measures.json', json.dumps(content))


def _tell_plan(trainings: Trainings, subsets: Sequence[Subset], finished: int) -> list[Setting]:
    """Say what will be trained; how long, for each number of labelled images."""
    starts, by_percent = list(trainings.starts), {s.percent: s for s in reversed(subsets)}
    lengths = []
    for percent, subset in sorted(by_percent.items()):
        _, length = trainings.fit(starts[0], subset)
        images = f'{len(subset.numbers):,} images ({percent:g} %)'
        lengths.append(Setting(images, f'{length.value} {length.name}', length.reason))
    percents = ', '.join(f'{percent:g}' for percent in sorted(by_percent))
    drawn = ', '.join(str(seed) for seed in sorted({subset.seed for subset in subsets}))
    done = f'; finished: {finished}' if finished else ''
    say(
        f'\n{len(starts) * len(subsets)} trainings: starts ({", ".join(starts)}) x percents '
        f'({percents}) x seeds ({drawn}){done}'
    )
    say(settings_table(lengths))
    return lengths


def _estimate(
    trainings: Trainings, left: dict[tuple[str, float, int], Subset]
) -> dict[tuple[str, float, int], float]:
    """How many seconds each training will take, by steps that are taken here; says their sum."""
    if not left:
        return {}
    say('Measuring the speed of training ...')
    steps: dict[tuple[str, int], float] = {}
    tests: dict[str, float] = {}
    by_size: dict[tuple[str, float], float] = {}
    for (start, percent, _), subset in left.items():
        if (start, percent) in by_size:
            continue
        cfg, _ = trainings.fit(start, subset)
        batch = cfg.train_dataloader.batch_size
        cfg.train_dataloader.batch_size = share_of_batch(batch, trainings.processes)
        with (
            only_progress(),
            threads_of_a_process(trainings.processes),
            DefaultScope.overwrite_default_scope(cfg.get('default_scope')),
        ):
            if (start, batch) not in steps:
                steps[start, batch] = seconds_per_step(cfg, _LIMIT)
            if start not in tests:
                batches = trainings.validated / cfg.val_dataloader.batch_size
                tests[start] = seconds_per_test(cfg, _LIMIT) * batches / trainings.processes
        train, count = cfg.train_cfg, len(subset.numbers) // batch
        validations = train.get('max_epochs', 0) // train.val_interval + 1
        number = train.max_iters if 'max_iters' in train else train.max_epochs * count
        by_size[start, percent] = number * steps[start, batch] + validations * tests[start]
    seconds = {key: by_size[key[:2]] for key in left}
    say(
        f'{len(left)} trainings will take about {duration(sum(seconds.values()))}, by steps of '
        'training and validation measured here'
    )
    return seconds


def _summarise(
    trainings: Trainings,
    out: Path,
    runs: dict[tuple[str, float, int], dict[str, Measured]],
    plan: dict[tuple[str, float, int], Subset],
    lengths: list[Setting],
) -> Study:
    """Write table, plot and figures of the trainings so far."""
    images = {percent: len(subset.numbers) for (_, percent, _), subset in plan.items()}
    points = compare_runs(runs, next(iter(trainings.starts)), images)
    progress = f'{len(runs)} of {len(plan)} trainings are finished.'
    summary = study_summary(
        trainings.title,
        points,
        trainings.starts,
        lengths,
        progress,
        trainings.validated,
        trainings.leakage,
    )
    content = [
        point._asdict() | dict(difference=point.difference and point.difference._asdict())
        for point in points
    ]
    files = {
        'summary.md': summary,
        'results.csv': points_csv(points),
        'results.json': json.dumps(content, indent=1),
    }
    for name, text in files.items():
        write_text(out / name, text)
    plot_learning_curves(points, trainings.starts, out / 'curve.png')
    return Study(points, out / 'summary.md')


def _tell(study: Study, finished: int, planned: int) -> None:
    measure = study.points[0].measure
    so_far = '' if finished == planned else f'So far, of {finished} of {planned} trainings:\n'
    told = '\n'.join(verdicts(study.points, measure))
    say(f'\n{so_far}{study_table(study.points, measure)}\n{told}')
    say(f'All of it: {study.summary}')
