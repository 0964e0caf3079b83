"""What came of training detectors, in markdown."""

import os
import shlex
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..console import Setting
from ..datasets.coco import objects_of
from ..evaluation.coco import CocoAP
from .tables import row

KINDS = dict(bbox='box', segm='mask')
_MOST = 100  # detections of an image that pycocotools counts


def ap_table(results: dict[str, dict[str, CocoAP]]) -> str:
    """Average precision of each run, and how far the first is ahead, as a markdown table.

    Args:
        results: For each run, by name, its average precision of each kind.
    """
    first, *others = results
    runs = [first, *others]
    table = row('', *runs, *(f'{first} is ahead of {run} by' for run in others))
    table += row('---', *['---:'] * (len(runs) + len(others)))
    for kind, name in KINDS.items():
        for field in ('ap', 'ap50', 'ap75') if kind in results[first] else ():
            values = [getattr(results[run][kind], field) for run in runs]
            changes = [f'{values[0] - value:+.1f}' for value in values[1:]]
            table += row(f'{name} {field.upper()}', *values, *changes)
    return table


def ap_advice(results: dict[str, dict[str, CocoAP]]) -> str:
    """What to do if no run has learned to find objects, a line of markdown; else nothing.

    Args:
        results: For each run, by name, its average precision of each kind.
    """
    if any(kind.ap >= 1 for kinds in results.values() for kind in kinds.values()):
        return ''
    return (
        '\nAn AP below 1 is of no use yet, and tells nothing of the backbone: train longer '
        '(`--iterations`), annotate more images, or pretrain from trained weights '
        '(`mmsnclr pretrain --init`).\n'
    )


def ap_limit(val: dict) -> str:
    """How pycocotools' limit of detections affects the AP, a line of markdown; else nothing.

    Args:
        val: The validation set in COCO's format.
    """
    counts = Counter(annotation['image_id'] for annotation in objects_of(val)[1])
    many = sum(count > _MOST for count in counts.values())
    if not many:
        return ''
    return (
        f'\n{many} of {len(val["images"])} images have more than {_MOST} objects, up to '
        f'{max(counts.values())}: pycocotools counts the best {_MOST} detections of an image, so '
        'that an AP of 100 is out of reach.\n'
    )


def _class_table(results: dict[str, dict[str, CocoAP]]) -> str:
    """Average precision of each annotated class."""
    columns = [(run, kind) for run in results for kind in results[run]]
    table = row('class', 'objects', *(f'{KINDS[kind]} AP, {run}' for run, kind in columns))
    table += row('---', '---:', *['---:'] * len(columns))
    by_class = zip(*(results[run][kind].classes for run, kind in columns))
    rows = [(c[0].objects, c[0].name, [one.ap for one in c]) for c in by_class]
    for objects, name, values in sorted(rows, key=lambda row: (-row[0], row[1])):
        if not np.isnan(values).all():
            table += row(name, objects, *values)
    return table


def detection_summary(
    results: dict[str, dict[str, CocoAP]],
    settings: list[Setting],
    detectors: dict[str, tuple[str, Path]],
    sets: tuple[dict, dict],
    leakage: str,
    pictures: list[Path],
    threshold: float,
    out: Path,
) -> str:
    """What `mmsnclr detect` has to tell, in markdown.

    Args:
        results: For each run, by name, its average precision of each kind.
        settings: What was chosen, the detector's name first.
        detectors: For each run, by name, what it started from and the trained detector.
        sets: The training and the validation set in COCO's format.
        leakage: What of the validation set was seen before.
        pictures: Predictions beside the truth.
        threshold: Lowest score of what the pictures show.
        out: Folder that the paths are to be relative to.
    """
    learned, objects = objects_of(sets[0])
    train = f'{len(learned)} images, {len(objects)} annotations'
    if without := len(sets[0]['images']) - len(learned):
        train += f'; {without} without objects are not learned from'
    chosen = ''.join(row(*setting) for setting in settings)
    runs = ''.join(
        row(run, start, path.relative_to(out)) for run, (start, path) in detectors.items()
    )
    chance = (
        '\nEach was trained once, with the same seed: differences of a point or so, on few images '
        'more, may be chance.\n'
    )
    detector = shlex.quote(str(next(iter(detectors.values()))[1]))
    config = shlex.quote(str(out / 'config.py'))
    once = chance if len(results) > 1 else ''
    # Names of files need not be UTF-8.
    shown = '\n'.join(f'![]({quote(os.fsencode(path.relative_to(out)))})' for path in pictures)
    return f"""# {settings[0].value} on {len(sets[0]['categories'])} classes

Trained on {train}.
Measured on {len(sets[1]['images'])} images, {len(sets[1]['annotations'])} annotations.
Average precision in percent, by pycocotools:

{ap_table(results)}{ap_limit(sets[1])}{ap_advice(results)}{once}
{leakage}

![Precision and recall](precision_recall.png)

| setting | value | why |
| --- | --- | --- |
{chosen}
| backbone | from | detector |
| --- | --- | --- |
{runs}
`mmsnclr predict {detector} IMAGES --out DIR` finds objects in other images;
`python tools/train.py {config} --work-dir ELSEWHERE` trains it again.

## Classes

{_class_table(results)}
## Pictures

The truth on the left, on the right what was found with a score of {threshold:.2f} or more:

{shown}
"""
