"""Average precision of detections, per class, and precision-recall curves."""

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure


class ClassAP(NamedTuple):
    """Average precision of one class, in percent; nan if nothing is annotated.

    Attributes:
        name: The class.
        objects: Number of annotated objects.
        ap: Mean over IoU thresholds 0.50 to 0.95.
        ap50: At IoU 0.50.
    """

    name: str
    objects: int
    ap: float
    ap50: float


class CocoAP(NamedTuple):
    """COCO's average precision, in percent, crowds aside.

    Attributes:
        ap: Mean over the annotated classes and IoU thresholds 0.50 to 0.95.
        ap50: At IoU 0.50.
        ap75: At IoU 0.75.
        classes: Each class.
        precision: Precision (0 to 1) at the recalls 0, 0.01, ... 1 for each
            class at IoU 0.50, ``(101, classes)``; nan where nothing is annotated.
    """

    ap: float
    ap50: float
    ap75: float
    classes: list[ClassAP]
    precision: np.ndarray


def evaluate_coco(
    ann_file: str | Path, predictions: str | Path | list[dict], kind: str = 'bbox'
) -> CocoAP:
    """Average precision by pycocotools.

    Args:
        ann_file: What is true, in COCO's format.
        predictions: Detections in COCO's result format, or the file of them.
        kind: ``'bbox'`` or ``'segm'``.

    Returns:
        The average precision of all and of each class.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not isinstance(predictions, list):
        predictions = json.loads(Path(predictions).read_text())
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        truth = COCO(str(ann_file))
        if predictions:
            found = truth.loadRes(predictions)
        else:
            found = COCO()
            found.dataset = truth.dataset | dict(annotations=[])
            found.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
    # IoU thresholds x recalls x classes, objects of any size, 100 detections per image
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    categories = truth.loadCats(evaluation.params.catIds)
    classes = [
        ClassAP(
            category['name'],
            sum(not a['iscrowd'] for a in truth.loadAnns(truth.getAnnIds(catIds=[category['id']]))),
            _percent(precision[:, :, number]),
            _percent(precision[0, :, number]),
        )
        for number, category in enumerate(categories)
    ]
    at = [_percent(precision), _percent(precision[0]), _percent(precision[5])]
    return CocoAP(*at, classes, precision[0])


def _percent(precision: np.ndarray) -> float:
    known = precision[~np.isnan(precision)]
    return 100 * float(known.mean()) if known.size else float('nan')


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
