"""Which classes a classifier takes for which."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay
from torch import Tensor

_NUMBERED = 25  # classes up to which each cell has its number
_NAMED = 60  # classes up to which their names can be read


def plot_confusion_matrix(confusion: Tensor, classes: list[str], path: str | Path) -> Path:
    """Plot a confusion matrix, coloured by the share of each true class.

    Args:
        confusion: Number of images by true (row) and predicted class, ``(C, C)``.
        classes: Names of the classes.
        path: Picture to write.

    Returns:
        The picture's path.
    """
    counts = confusion.numpy()
    edge = min(16.0, 3.5 + 0.42 * len(classes))
    figure = Figure((edge + 1, edge), layout='constrained')
    axis = figure.subplots()
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [name.replace('$', r'\$') for name in classes]  # no formula
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    display.plot(
        ax=axis, cmap='Blues', include_values=False, xticks_rotation='vertical', colorbar=False
    )
    display.im_.set_clim(0, 100)
    figure.colorbar(display.im_, ax=axis, label='% of the true class', shrink=0.8)
    if len(classes) <= _NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            colour = 'white' if shares[row, column] > 50 else 'black'
            if count:
                axis.text(column, row, count, ha='center', va='center', color=colour, fontsize=9)
    elif len(classes) > _NAMED:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
    return Path(path)
