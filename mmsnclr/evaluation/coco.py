"""Average precision of detections, per class, and precision-recall curves."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..parents import without_prints


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
        predictions = json.loads(Path(predictions).read_text(encoding='utf-8'))
    with without_prints():  # pycocotools prints what it does
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
    ap, ap50, ap75 = _percent(precision), _percent(precision[0]), _percent(precision[5])
    return CocoAP(ap, ap50, ap75, classes, precision[0])


def _percent(precision: np.ndarray) -> float:
    known = precision[~np.isnan(precision)]
    return 100 * float(known.mean()) if known.size else float('nan')
