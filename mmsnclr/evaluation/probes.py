"""What features tell of labelled images: k-NN, linear and few-shot classification."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

from ..datasets.labelled import draw_part
from .knn import knn_classes

NEIGHBORS, SHOTS, DRAWS = (20, 200), (1, 5, 10), 10
_STRENGTHS = tuple(10.0**power for power in range(-4, 3))  # the inverse, as of scikit-learn
_HELD_OUT = 0.2  # of the images that are learned from
_ITERATIONS = 1000
_Z = 1.959964  # within so many deviations lie 95 % of a normal distribution


class Score(NamedTuple):
    """Top-1 accuracy in percent.

    Attributes:
        accuracy: The share of the images that are told right; of several draws their mean.
        low: Where its 95 % interval begins, over the images that are tested on.
        high: Where it ends.
        deviation: Standard deviation over the draws; ``None`` if there is one.
        difference: How far another representation is ahead on the same images and draws, with
            its interval, each in points; ``None`` if there is no other.
    """

    accuracy: float
    low: float
    high: float
    deviation: float | None = None
    difference: tuple[float, float, float] | None = None


def probe(
    features: np.ndarray, labels: np.ndarray, tested: np.ndarray, seed: int = 0
) -> dict[str, np.ndarray]:
    """Classify images by their features.

    Args:
        features: Of all images, ``(N, C)``.
        labels: Their classes, ``(N,)``.
        tested: Which are classified, ``(N,)`` bool; the others are learned from.
        seed: Seed of what is drawn: the same for any features of these images.

    Returns:
        For each kind of classifier whether it is right, ``(draws, M)`` bool, M being the number
        of images that are tested on. Left out are numbers of neighbours or images of a class of
        which there are fewer; :func:`left_out` tells.
    """
    learned, queries = features[~tested], features[tested]
    known, truth = labels[~tested], labels[tested]
    found = {}
    ks = [k for k in NEIGHBORS if k <= len(learned)]
    classes, numbers = np.unique(known, return_inverse=True)
    if ks:
        bank, voters, others = map(torch.from_numpy, (learned, numbers, queries))
        bank = bank.cuda() if torch.cuda.is_available() else bank
        for k, predicted in knn_classes(bank, voters, others, ks).items():
            found[f'k-NN {k}'] = [classes[predicted.numpy()] == truth]
    found['linear'] = [linear_classes(learned, known, queries, seed) == truth]
    for shots in SHOTS:
        if shots <= np.bincount(numbers).min():
            predicted = few_shot_classes(learned, known, queries, shots, seed)
            found[f'{shots}-shot'] = [classes == truth for classes in predicted]
    return {name: np.array(right) for name, right in found.items()}


def left_out(labels: np.ndarray, tested: np.ndarray) -> list[str]:
    """Why :func:`probe` leaves columns out, a sentence for each."""
    classes, counts = np.unique(labels[~tested], return_counts=True)
    few = [
        f'k-NN {k} is left out: only {counts.sum()} images are learned from'
        for k in NEIGHBORS
        if k > counts.sum()
    ]
    least = counts.argmin()
    return few + [
        f'{shots}-shot is left out: class {classes[least]} has {counts[least]} to learn from'
        for shots in SHOTS
        if shots > counts[least]
    ]


def linear_classes(
    learned: np.ndarray, labels: np.ndarray, queries: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Classes by logistic regression on standardised features.

    How strongly it is regularised is what is best on a fifth of the images of each class, which
    is held out; then it learns from all of them.

    Args:
        learned: Features to learn from, ``(N, C)``.
        labels: Their classes, ``(N,)``.
        queries: Features to classify, ``(M, C)``.
        seed: Seed of what is held out.

    Returns:
        Classes, ``(M,)``.
    """
    held_out = draw_part(labels, _HELD_OUT, seed)
    strength = 1.0
    if held_out.any() and len(set(labels[~held_out])) > 1:
        fitted, others = learned[~held_out], learned[held_out]
        scores = [
            np.mean(_regress(fitted, labels[~held_out], others, x) == labels[held_out])
            for x in _STRENGTHS
        ]
        strength = _STRENGTHS[int(np.argmax(scores))]  # of equals the simplest
    return _regress(learned, labels, queries, strength)


def _regress(
    learned: np.ndarray, labels: np.ndarray, queries: np.ndarray, strength: float
) -> np.ndarray:
    scaler = StandardScaler().fit(learned)
    model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # weak regularisation has no end
        model.fit(scaler.transform(learned), labels)
    return model.predict(scaler.transform(queries))


def few_shot_classes(
    learned: np.ndarray, labels: np.ndarray, queries: np.ndarray, shots: int, seed: int = 0
) -> list[np.ndarray]:
    """Classes by the nearest mean of a few images of each class.

    Features have length 1, also the means (SimpleShot, arXiv 1911.04623).

    Args:
        learned: Features to draw from, ``(N, C)``.
        labels: Their classes, ``(N,)``.
        queries: Features to classify, ``(M, C)``.
        shots: Number of images of each class.
        seed: Seed of the draws.

    Returns:
        Classes, ``(M,)``, for each of :data:`DRAWS` draws.
    """
    learned, queries, classes = normalize(learned), normalize(queries), np.unique(labels)
    found = []
    for draw in range(DRAWS):
        means = normalize(learned[draw_shots(labels, shots, draw, seed)].mean(axis=1))
        found.append(classes[(queries @ means.T).argmax(axis=1)])
    return found


def draw_shots(labels: np.ndarray, shots: int, draw: int, seed: int = 0) -> np.ndarray:
    """Numbers of a few images of each class, ``(classes, shots)``.

    Those of fewer shots are among those of more.

    Args:
        labels: The class of each image, ``(N,)``.
        shots: Number of images of each class.
        draw: Which of several draws.
        seed: Seed of all of them.
    """
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, draw]).permutation(len(labels))
    order = order[numbers[order].argsort(kind='stable')]  # class by class
    return order[(counts.cumsum() - counts)[:, None] + np.arange(shots)]


def score(right: np.ndarray, first: np.ndarray | None = None) -> Score:
    """Accuracy, and how sure it is.

    The interval is Wilson's. Where there are several draws it takes the mean over them, and is
    wider than it has to be. That of a difference is normal, of differences image by image.

    Args:
        right: Whether a classifier is right, ``(draws, M)`` bool.
        first: The same of the representation that it is compared with.

    Returns:
        The score.
    """
    count, accuracy = right.shape[1], float(100 * right.mean())
    deviation = float(100 * right.mean(axis=1).std(ddof=1)) if len(right) > 1 else None
    difference = None
    if first is not None:
        each = 100 * (first.mean(axis=0) - right.mean(axis=0))
        error = _Z * each.std(ddof=1) / np.sqrt(count) if count > 1 else np.inf
        mean = float(each.mean())
        difference = mean, float(mean - error), float(mean + error)
    return Score(accuracy, *interval(accuracy, count), deviation, difference)


def interval(accuracy: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy on a number of images, in percent."""
    share, scale = accuracy / 100, 1 + _Z**2 / count
    centre = share + _Z**2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    low, high = (100 * (centre + sign * half) / scale for sign in (-1, 1))
    return max(low, 0.0), min(high, 100.0)
