"""Features in two dimensions."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import color_sequences
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

METHODS = ('pca', 'tsne')
# Classes with a colour of their own; more could not be told apart.
_COLOURS = 10


def project(features: np.ndarray, method: str = 'pca', seed: int = 0) -> np.ndarray:
    """Project L2-normalised features to two dimensions.

    Args:
        features: ``(N, C)``, any scale.
        method: ``'pca'``, which keeps large distances, or ``'tsne'``, which
            keeps neighbours and takes longer.
        seed: Seed of both.

    Returns:
        Positions, ``(N, 2)``.

    Raises:
        ValueError: If the method is another, or there are fewer than 3 images.
    """
    if method not in METHODS:
        raise ValueError(f'projection={method!r} must be one of {", ".join(METHODS)}')
    if len(features) < 3:
        raise ValueError(f'a projection needs at least 3 images, not {len(features)}')
    features = normalize(features)
    if method == 'pca':
        return PCA(2, random_state=seed).fit_transform(features)
    perplexity = min(30, (len(features) - 1) / 3)
    return TSNE(2, perplexity=perplexity, random_state=seed).fit_transform(features)


def draw_projection(
    positions: np.ndarray, labels: Sequence[str] | None, path: str | Path, title: str
) -> Path:
    """Draw the positions of images, coloured by class.

    Args:
        positions: ``(N, 2)``.
        labels: Class names, or ``None``; the ten most frequent have a colour.
        path: Picture to write; its suffix tells the format.
        title: Headline.

    Returns:
        The picture's path.
    """
    figure = Figure((7.2, 5.4), layout='constrained')
    axis: Any = figure.subplots()
    size = 26 if len(positions) < 1000 else 8
    if labels is None:
        axis.scatter(*positions.T, s=size, alpha=0.7, linewidths=0)
    else:
        names = [name for name, _ in Counter(labels).most_common()]
        coloured, rest = sorted(names[:_COLOURS]), set(names[_COLOURS:])
        if rest:
            where = np.array([label in rest for label in labels])
            other = f'{len(rest)} other classes'
            axis.scatter(*positions[where].T, s=size, color='0.8', label=other, linewidths=0)
        for colour, name in zip(color_sequences['tab10'], coloured):
            where = np.array([label == name for label in labels])
            style = dict(color=colour, label=name.replace('$', r'\$'))  # no formula
            axis.scatter(*positions[where].T, s=size, alpha=0.8, linewidths=0, **style)
        # Of labels that it finds itself, matplotlib hides those that begin with _.
        shown = [(points, points.get_label()) for points in axis.collections]
        style = dict(frameon=False, fontsize=9, markerscale=1.5)
        figure.legend(*zip(*shown), loc='outside right upper', **style)
    axis.set_title(title, loc='left', fontsize=11)
    axis.set(xticks=[], yticks=[], xlabel='first dimension', ylabel='second dimension')
    axis.spines[['top', 'right']].set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
