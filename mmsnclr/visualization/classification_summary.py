"""What came of training classifiers, in markdown."""

import math
import shlex
from pathlib import Path

from ..console import Setting
from ..evaluation.classification import Accuracies
from ..evaluation.probes import interval, score
from .tables import points, row

_CLASSES = 200  # of which the summary has a row each; all are in predictions.csv


def accuracy_table(results: dict[str, Accuracies]) -> str:
    """Accuracy of each run, and how far the first's top-1 is ahead, as a markdown table.

    Differences are taken image by image, and have their 95 % interval over the images.

    Args:
        results: For each run, by name, how good its classifier is.
    """
    first = next(iter(results.values()))
    kinds = dict(top1='top-1', top5='top-5', balanced='balanced')
    fields = [field for field in kinds if getattr(first, field) is not None]
    difference = [f'{next(iter(results))} is ahead by'] if len(results) > 1 else []
    table = row('accuracy, %', *(kinds[field] for field in fields), *difference)
    table += row('---', *['---:'] * (len(fields) + len(difference)))
    for name, result in results.items():
        change = ''
        if result is not first:
            change = points(score(*(x.right.numpy()[None] for x in (result, first))).difference)
        table += row(name, *(getattr(result, field) for field in fields), *difference and [change])
    return table


def _class_table(result: Accuracies) -> str:
    table = row('class', 'images', 'precision', 'recall', 'F1') + row('---', *['---:'] * 4)
    worst = sorted(result.classes, key=lambda one: (math.isnan(one.f1), one.f1, one.name))
    for one in worst[:_CLASSES]:
        table += row(one.name, one.images, one.precision, one.recall, one.f1)
    return table


def classification_summary(
    results: dict[str, Accuracies],
    settings: dict[str, list[Setting]],
    classifiers: dict[str, tuple[str, Path]],
    leakage: str,
    out: Path,
) -> str:
    """What `mmsnclr classify` has to tell, in markdown.

    Args:
        results: For each run, by name, how good its classifier is; what was asked for first.
        settings: For each run, what was chosen.
        classifiers: For each run, what it started from and the trained classifier.
        leakage: What of the validation set was seen before.
        out: Folder that the paths are to be relative to.
    """
    first, *others = results
    result = results[first]
    chosen = ''.join(row(*setting) for setting in settings[first])
    for name in others:
        differ = [setting for setting in settings[name] if setting not in settings[first]]
        chosen += ''.join(row(f'{s.name}, {name}', s.value, s.reason) for s in differ)
    runs = ''.join(
        row(name, source, path.relative_to(out)) for name, (source, path) in classifiers.items()
    )
    images = sum(one.images for one in result.classes)
    low, high = interval(result.top1, images)
    chance = (
        'Each was trained once, with the same seed. In brackets: 95 % interval over the images,\n'
        'which knows nothing of other seeds.\n'
        if others
        else ''
    )
    checkpoint = shlex.quote(str(classifiers[first][1]))
    config = shlex.quote(str(out / 'config.py'))
    return f"""# Classifier of {len(result.classes)} classes

Measured on {images} images, by which top-1 lies between {low:.1f} and {high:.1f} (Wilson's 95 %
interval). Balanced is the mean recall of the classes.
{chance}
{accuracy_table(results)}
{leakage}

[The worst mistakes](mistakes.html); [all predictions](predictions.csv).

![Confusion matrix](confusion_matrix.png)

| setting | value | why |
| --- | --- | --- |
{chosen}
| backbone | from | classifier |
| --- | --- | --- |
{runs}
`mmsnclr predict {checkpoint} IMAGES --out DIR` classifies other images;
`python tools/train.py {config} --work-dir ELSEWHERE` trains it again.

## Classes

The worst first, of the {first} backbone:

{_class_table(result)}"""
