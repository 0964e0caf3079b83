"""What came of comparing starts over labelled images and seeds, in words, markdown and csv."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from itertools import groupby

from ..console import Setting
from ..evaluation.study import Difference, Point
from .tables import points as in_points
from .tables import row

_COLUMNS = ('measure', 'start', 'percent', 'images', 'seeds', 'mean', 'deviation', 'low', 'high')
_DIFFERENCES = ('difference', 'seeds_low', 'seeds_high', 'images_low', 'images_high')
_VERDICTS = {1: 'helps', -1: 'harms', 0: 'cannot be told'}


def verdicts(points: Sequence[Point], measure: str) -> list[str]:
    """Whether the first start is better than each other, a sentence for each.

    Args:
        points: What was measured.
        measure: By which measure.
    """
    others: dict[str, list[tuple[int, Difference]]] = {}
    for point in points:
        if point.measure == measure and point.difference is not None:
            others.setdefault(point.start, []).append((point.images, point.difference))
    first = next(point.start for point in points)
    return [_verdict(measure, first, other, found) for other, found in others.items()]


def _verdict(measure: str, first: str, other: str, found: list[tuple[int, Difference]]) -> str:
    """One of them; ``found`` has the differences to the other by rising numbers of images."""
    counts = [difference.seeds for _, difference in found]
    question = f'Whether {first} is better than {other} by {measure} cannot be told'
    if max(counts) < 2:
        return f'{question}: one seed says nothing of what other seeds give. Train with more.'
    # An interrupted study has fewer seeds at some numbers of images.
    seeds = _range(min(counts), max(counts))
    if not any(difference.sign for _, difference in found):
        return (
            f'{question} with {seeds} seeds, at {_numbers(found)} labelled images: nowhere do '
            'both intervals of the difference exclude 0.'
        )
    parts = []
    for sign, group in groupby(found, key=lambda one: one[1].sign):
        group = list(group)
        parts.append(f'{_VERDICTS[sign]} {"at" if len(group) == 1 else "from"} {_numbers(group)}')
    return (
        f'{first[0].upper()}{first[1:]} instead of {other}, {measure} by number of labelled '
        f'images: {"; ".join(parts)} ({seeds} seeds).'
    )


def _numbers(found: list[tuple[int, Difference]]) -> str:
    return _range(found[0][0], found[-1][0])


def _range(low: int, high: int) -> str:
    return f'{low:,}' if low == high else f'{low:,} to {high:,}'


def study_table(points: Sequence[Point], measure: str) -> str:
    """A measure of each start on each number of labelled images, as a markdown table.

    Args:
        points: What was measured.
        measure: Which measure is shown.
    """
    points = [point for point in points if point.measure == measure]
    first = points[0].start
    others = any(point.start != first for point in points)
    seeds = max(len(point.values) for point in points)
    columns = [f'{first} is ahead by, over seeds', 'over images'] if others else []
    table = row('labelled images', 'start', measure, *columns)
    table += row('---:', '---', '---:', *['---:'] * len(columns))
    for _, group in groupby(points, key=lambda point: point.percent):
        for number, point in enumerate(group):
            images = '' if number else f'{point.images:,} ({point.percent:g} %)'
            table += row(
                images, point.start, _mean(point, seeds), *_difference(point)[: len(columns)]
            )
    return table


def _mean(point: Point, seeds: int) -> str:
    """Mean and spread; the number of seeds where others have more, as of an interrupted study."""
    few = f' ({len(point.values)} of {seeds} seeds)' if len(point.values) < seeds else ''
    if point.deviation is None:
        return f'{point.mean:.1f} [{point.over_images[0]:.1f}, {point.over_images[1]:.1f}]{few}'
    return f'{point.mean:.1f} ± {point.deviation:.1f}{few}'


def _difference(point: Point) -> tuple[str, str]:
    difference = point.difference
    if difference is None:
        return '', ''
    over_images = in_points((difference.mean, *difference.over_images))
    if difference.over_seeds is None:
        return 'one seed', over_images
    return in_points((difference.mean, *difference.over_seeds)), over_images


def study_summary(
    title: str,
    points: Sequence[Point],
    starts: Mapping[str, str],
    plan: Sequence[Setting],
    progress: str,
    measured_on: int,
    leakage: str,
) -> str:
    """What a study has to tell, in markdown.

    Args:
        title: What was trained.
        points: What was measured.
        starts: What each start is, by its name.
        plan: How long is trained on each number of labelled images, and why.
        progress: How many trainings are finished.
        measured_on: Number of validation images.
        leakage: What of these was seen before.
    """
    measures = dict.fromkeys(point.measure for point in points)
    tables = ''
    for name in measures:
        told = ''.join(f'- {verdict}\n' for verdict in verdicts(points, name))
        tables += f'## {name[0].upper()}{name[1:]}\n\n{told}\n{study_table(points, name)}\n'
    sources = ''.join(row(name, source) for name, source in starts.items())
    lengths = ''.join(row(*setting) for setting in plan)
    return f"""# {title} by number of labelled images

{progress} All are measured on the same {measured_on:,} images. In percent: mean and standard
deviation over seeds, each of which draws the labelled images and all that is random in a training,
the same for every start. In brackets: 95 % intervals, over seeds by Student's t of the differences
seed by seed, over the validation images by the bootstrap, which knows nothing of other seeds. Of a
single seed the interval over images stands for the spread, and nothing can be told of other seeds.

![{', '.join(measures)} by number of labelled images](curve.png)

{tables}| start | from |
| --- | --- |
{sources}
{leakage}

| labelled images | schedule | why |
| --- | --- | --- |
{lengths}
`runs/START/PERCENT/SEED/` has each training, `subsets/` its images; the figures are in
`results.json` and `results.csv`.
"""


def points_csv(points: Sequence[Point]) -> str:
    """The same as csv, a line for each point.

    Args:
        points: What was measured.
    """
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow([*_COLUMNS, *_DIFFERENCES])
    for point in points:
        found = point.difference
        values = [point.mean, point.deviation, *point.over_images]
        values += [found.mean, *(found.over_seeds or (None, None))] if found else [None] * 3
        values += found.over_images if found else [None] * 2
        shown = ('' if value is None else f'{value:.3f}' for value in values)
        names = (point.measure, point.start, f'{point.percent:g}', point.images, len(point.values))
        writer.writerow([*names, *shown])
    return text.getvalue()
