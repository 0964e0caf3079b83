"""How good a classifier is, in all and for each class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.fileio import load
from mmpretrain.evaluation import Accuracy, ConfusionMatrix, SingleLabelMetric
from torch import Tensor

from ..datasets.scan import write_csv


class Predictions(NamedTuple):
    """What a classifier makes of N images.

    Attributes:
        paths: The images.
        labels: Number of the true class of each, ``(N,)``.
        scores: Probability of each of C classes, ``(N, C)``.
    """

    paths: list[str]
    labels: Tensor
    scores: Tensor


class ClassAccuracy(NamedTuple):
    """How well one class is recognised, in percent.

    Attributes:
        name: The class.
        images: How many are of it.
        precision: Share of what is taken for it that is of it.
        recall: Share of its images that are recognised; nan if it has none.
        f1: Harmonic mean of both; nan if it has no image.
    """

    name: str
    images: int
    precision: float
    recall: float
    f1: float


class Accuracies(NamedTuple):
    """How good a classifier is, in percent.

    Attributes:
        top1: Share of images whose class is the likeliest.
        top5: Share of those whose class is among the five likeliest; ``None`` where there are
            no more.
        balanced: Mean recall of the classes that have images.
        classes: Each class.
        confusion: Number of images by true (row) and likeliest class, ``(C, C)``.
        right: Whether the likeliest class is the true one, for each image, ``(N,)`` bool.
    """

    top1: float
    top5: float | None
    balanced: float
    classes: list[ClassAccuracy]
    confusion: Tensor
    right: Tensor


def read_predictions(path: str | Path) -> Predictions:
    """Read what mmengine's ``DumpResults`` wrote of a classifier."""
    samples = sorted(load(path), key=lambda sample: sample['img_path'])
    return Predictions(
        [sample['img_path'] for sample in samples],
        torch.cat([sample['gt_label'] for sample in samples]),
        torch.stack([sample['pred_score'] for sample in samples]).float(),
    )


def rate(predictions: Predictions, classes: list[str]) -> Accuracies:
    """Rate predictions by mmpretrain's measures.

    Args:
        predictions: What was predicted.
        classes: Names of the classes.
    """
    scores, labels = predictions.scores, predictions.labels
    topk = (1, 5) if len(classes) > 5 else (1,)
    top = [float(accuracy) for (accuracy,) in Accuracy.calculate(scores, labels, topk)]
    columns = SingleLabelMetric.calculate(
        scores.argmax(dim=1), labels, num_classes=len(classes), average=None
    )
    precision, recall, f1, images = (column.tolist() for column in columns)
    nan = float('nan')
    by_class = [
        ClassAccuracy(name, int(n), p, *((r, f) if n else (nan, nan)))
        for name, n, p, r, f in zip(classes, images, precision, recall, f1)
    ]
    known = [one.recall for one in by_class if one.images]
    return Accuracies(
        top[0],
        top[1] if len(top) > 1 else None,
        sum(known) / len(known),
        by_class,
        ConfusionMatrix.calculate(scores, labels, num_classes=len(classes)),
        scores.argmax(dim=1).eq(labels),
    )


def resample_accuracy(right: Tensor, labels: Tensor, draws: np.ndarray) -> np.ndarray:
    """Accuracy on resampled images.

    Args:
        right: Whether each of V images is told right, ``(V,)`` bool.
        labels: Number of its class, ``(V,)``.
        draws: How often each is in each of R samples, ``(R, V)``.

    Returns:
        ``top1`` and ``balanced`` of each, in percent, ``(R, 2)``.
    """
    order = labels.argsort().numpy()
    _, begins = np.unique(labels.numpy()[order], return_index=True)
    images = np.add.reduceat(draws[:, order], begins, axis=1)
    found = np.add.reduceat((draws * right.numpy())[:, order], begins, axis=1)
    recall = np.where(images, found / np.maximum(images, 1), np.nan)
    top1 = found.sum(axis=1) / images.sum(axis=1)
    return 100 * np.stack([top1, np.nanmean(recall, axis=1)], axis=1)


def write_predictions(
    file: str | Path,
    classes: list[str],
    paths: list[str],
    scores: Tensor,
    labels: Tensor | None = None,
) -> list[dict]:
    """Write a csv: path, true class if it is known, likeliest class, and all probabilities.

    Args:
        file: The csv.
        classes: Names of the classes.
        paths: As of :class:`Predictions`.
        scores: Likewise.
        labels: Likewise, if they are known.

    Returns:
        ``path``, ``label`` if it is known, ``class`` and ``score`` of each image.
    """
    highest, found = scores.max(dim=1)
    rows: list[dict] = [dict(path=path) for path in paths]
    for number, row in enumerate(rows):
        if labels is not None:
            row['label'] = classes[labels[number]]
        row |= {'class': classes[found[number]], 'score': round(float(highest[number]), 6)}
    shares = ((f'{share:.6f}' for share in one) for one in scores.tolist())
    table = ((*row.values(), *one) for row, one in zip(rows, shares))
    write_csv(file, (*rows[0], *classes), table)
    return rows
