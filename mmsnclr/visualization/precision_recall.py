"""Precision-recall curves of detectors."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..evaluation.coco import CocoAP


def plot_precision_recall(results: dict[str, dict[str, CocoAP]], path: str | Path) -> Path:
    """Plot precision over recall at IoU 0.50.

    A bold line is the mean over the annotated classes of a run; the thin ones
    are the classes of the first run.

    Args:
        results: For each run, by name, its average precision of each kind
            (``'bbox'``, ``'segm'``).
        path: Picture to write.

    Returns:
        The picture's path.
    """
    kinds = list(next(iter(results.values())))
    figure = Figure((5 * len(kinds), 4.2), layout='constrained')
    recall = np.linspace(0, 1, 101)
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds):
        for number, (name, by_kind) in enumerate(results.items()):
            known = by_kind[kind].precision
            known = known[:, ~np.isnan(known).any(axis=0)]
            if number == 0:
                axis.plot(recall, known, color='0.8', linewidth=0.8)
                axis.plot([], [], color='0.8', linewidth=0.8, label=f'{name}: each class')
            if known.size:
                label = f'{name}: AP50 {by_kind[kind].ap50:.1f}'
                mean = known.mean(axis=1)
                axis.plot(recall, mean, color=f'C{number}', linewidth=2.5, label=label)
        axis.set(
            title={'bbox': 'Boxes', 'segm': 'Masks'}[kind],
            xlabel='recall',
            ylabel='precision at IoU 0.50',
            xlim=(0, 1),
            ylim=(0, 1.02),
        )
        axis.legend(loc='upper right')
    figure.savefig(path, dpi=120)
    return Path(path)
