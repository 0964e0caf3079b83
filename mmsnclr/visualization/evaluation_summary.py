"""What came of comparing representations, in markdown and csv."""

import csv
from collections.abc import Mapping
from io import StringIO

import numpy as np

from ..evaluation.probes import DRAWS, Score, left_out
from .tables import points, row

_COLUMNS = ('checkpoint', 'classifier', 'accuracy', 'low', 'high', 'deviation', 'difference')


def accuracy_table(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Accuracy of each classifier on each representation, and the first's lead, in markdown.

    Args:
        scores: For each checkpoint, by name, the score of each classifier.
    """
    first, *others = scores
    classifiers = list(scores[first])
    head = row('', *classifiers) + row('---', *['---:'] * len(classifiers))
    text = head + ''.join(
        row(name, *(_accuracy(found[classifier]) for classifier in classifiers))
        for name, found in scores.items()
    )
    if others:
        text += f'\n{first} is ahead by, in points:\n\n{head}' + ''.join(
            row(name, *(points(scores[name][classifier].difference) for classifier in classifiers))
            for name in others
        )
    return text


def how_measured(labels: np.ndarray, tested: np.ndarray, seed: int) -> str:
    """How the figures of :func:`accuracy_table` were measured, in markdown.

    Args:
        labels: Class of each image, ``(N,)``.
        tested: Whether it was tested on, ``(N,)`` bool; the others were learned from.
        seed: Seed of all that was drawn.
    """
    reasons = ''.join(f'\n- {reason}' for reason in left_out(labels, tested))
    reasons = reasons and f'\n{reasons}'
    return (
        f'Top-1 accuracy in percent on {tested.sum():,} images, {(~tested).sum():,} others being '
        f'learned from (seed {seed}). In brackets: 95 % interval over the images tested on '
        '(Wilson), which knows nothing of other seeds of the pretraining. k-NN: neighbours by '
        'cosine similarity s, weighed by exp(s / 0.07). linear: logistic regression on '
        'standardised features, its strength chosen on a held-out fifth of the images learned '
        'from. n-shot: nearest mean of n images a class, mean and standard deviation of '
        f'{DRAWS} draws, which are the same for all checkpoints. Differences are taken image by '
        f'image.{reasons}'
    )


def scores_csv(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """The same as csv, a line for each checkpoint and classifier.

    Args:
        scores: For each checkpoint, by name, the score of each classifier.
    """
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow([*_COLUMNS, 'difference_low', 'difference_high'])
    for name, found in scores.items():
        for classifier, score in found.items():
            difference = score.difference or (None, None, None)
            values = (*score[:4], *difference)
            shown = ('' if value is None else f'{value:.3f}' for value in values)
            writer.writerow([name, classifier, *shown])
    return text.getvalue()


def _accuracy(score: Score) -> str:
    deviation = '' if score.deviation is None else f' ± {score.deviation:.1f}'
    return f'{score.accuracy:.1f}{deviation} [{score.low:.1f}, {score.high:.1f}]'
