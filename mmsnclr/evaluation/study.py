"""What a pretraining is worth: trainings compared over labelled images and seeds."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

_RESAMPLES = 1000
_CONFIDENCE = 0.95


class Measured(NamedTuple):
    """A measure of one training, in percent.

    Attributes:
        value: On all validation images.
        resampled: On each of R samples of them, which are the same for all trainings, ``(R,)``.
    """

    value: float
    resampled: list[float]


class Difference(NamedTuple):
    """How far the first start is ahead of another, in points, with 95 % intervals.

    Attributes:
        mean: Over the seeds that both were trained with.
        seeds: Their number.
        over_seeds: By Student's t, of the differences seed by seed; ``None`` of one seed.
        over_images: By the bootstrap, of the same trainings on other validation images.
    """

    mean: float
    seeds: int
    over_seeds: tuple[float, float] | None
    over_images: tuple[float, float]

    @property
    def sign(self) -> int:
        """1 or -1 where both intervals lie above or below 0, else 0: it cannot be told."""
        intervals = [self.over_images, self.over_seeds or (-np.inf, np.inf)]
        return int(min(low for low, _ in intervals) > 0) - int(max(h for _, h in intervals) < 0)


class Point(NamedTuple):
    """A measure of all trainings from one start on one number of labelled images.

    Attributes:
        measure: What was measured.
        start: What was trained from.
        percent: Share of the labelled images.
        images: Their number.
        values: The measure by seed, in percent.
        mean: Over seeds.
        deviation: Standard deviation over seeds; ``None`` of one.
        over_images: 95 % interval of the mean over the validation images.
        difference: Of the first start to this one; ``None`` for the first itself, or where no
            seed was trained with both.
    """

    measure: str
    start: str
    percent: float
    images: int
    values: dict[int, float]
    mean: float
    deviation: float | None
    over_images: tuple[float, float]
    difference: Difference | None


def draw_images(images: int) -> np.ndarray:
    """How often each of V validation images is in each of R samples, ``(R, V)``, always alike."""
    return np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), _RESAMPLES)


def compare_runs(
    runs: Mapping[tuple[str, float, int], Mapping[str, Measured]],
    first: str,
    images: Mapping[float, int],
) -> list[Point]:
    """Sum trainings up.

    Args:
        runs: What was measured, by start, percent of the labelled images, and seed.
        first: The start whose differences to the others are asked for.
        images: Number of labelled images by their percent.

    Returns:
        A point for each measure, percent and start of which there is a training, ``first`` ahead.
    """
    grouped: dict[tuple[str, float, str], dict[int, Measured]] = {}
    for (start, percent, seed), measures in runs.items():
        for name, measured in measures.items():
            grouped.setdefault((name, percent, start), {})[seed] = measured
    measures = list(dict.fromkeys(name for name, _, _ in grouped))
    starts = list(dict.fromkeys([first, *(start for _, _, start in grouped)]))
    return [
        _point(name, start, percent, images[percent], found, grouped.get((name, percent, first)))
        for name in measures
        for percent in sorted(images)
        for start in starts
        if (found := grouped.get((name, percent, start)))
    ]


def _point(
    measure: str,
    start: str,
    percent: float,
    images: int,
    found: dict[int, Measured],
    first: dict[int, Measured] | None,
) -> Point:
    values = {seed: found[seed].value for seed in sorted(found)}
    spread = float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else None
    over_images = _percentiles([one.resampled for one in found.values()])
    difference = None
    common = sorted(found.keys() & first.keys()) if first else []
    if first and common and first is not found:
        pairs = [(first[seed], found[seed]) for seed in common]
        each = np.array([ours.value - theirs.value for ours, theirs in pairs])
        resampled = [np.subtract(ours.resampled, theirs.resampled) for ours, theirs in pairs]
        difference = Difference(
            float(each.mean()), len(each), _over_seeds(each), _percentiles(resampled)
        )
    mean = float(np.mean(list(values.values())))
    return Point(measure, start, percent, images, values, mean, spread, over_images, difference)


def _over_seeds(differences: np.ndarray) -> tuple[float, float] | None:
    count = len(differences)
    if count < 2:
        return None
    error = differences.std(ddof=1) / np.sqrt(count)
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1) * error
    return float(differences.mean() - half), float(differences.mean() + half)


def _percentiles(resampled: list) -> tuple[float, float]:
    """Where the middle 95 % of samples lie, each the mean over seeds ``(seeds, R)``."""
    means = np.mean(resampled, axis=0)
    means = means[~np.isnan(means)]  # a sample may have nothing to measure by
    if not means.size:
        return float('nan'), float('nan')
    low, high = np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)
