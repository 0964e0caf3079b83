"""How good trainings are, over the number of labelled images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from ..evaluation.study import Point


def plot_learning_curves(
    points: Sequence[Point], starts: Mapping[str, str], path: str | Path
) -> Path:
    """Plot each measure over the number of labelled images, a line for each start.

    Bars are the standard deviation over seeds or, where there is one seed, the interval over
    the validation images.

    Args:
        points: What was measured.
        starts: What each start is, by its name.
        path: Picture to write.

    Returns:
        The picture's path.
    """
    measures = list(dict.fromkeys(point.measure for point in points))
    figure = Figure((5 * len(measures), 4.2), layout='constrained')
    for axis, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures):
        for number, (start, source) in enumerate(starts.items()):
            line = [p for p in points if (p.measure, p.start) == (measure, start)]
            bands = [
                p.over_images
                if p.deviation is None
                else (p.mean - p.deviation, p.mean + p.deviation)
                for p in line
            ]
            if not line:
                continue
            images, means = [p.images for p in line], [p.mean for p in line]
            label = start if start == 'random' else f'{start}: {"/".join(Path(source).parts[-2:])}'
            label = label.replace('$', r'\$')  # no formula
            errors = np.abs(np.transpose(bands) - means)
            style = dict(color=f'C{number}', marker='o', capsize=3, label=label)
            axis.errorbar(images, means, errors, **style)
        axis.set_xscale('log')
        axis.set(title=measure, xlabel='labelled images', ylabel='%')
        ticks = sorted({point.images for point in points})
        axis.set_xticks(ticks)
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.legend(loc='best', fontsize=8)
    figure.savefig(path, dpi=110)
    return Path(path)
