"""Average precision of detections, per class, and precision-recall curves."""

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..parents import without_prints

_AT_ONCE = 100  # samples, for the memory


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
    evaluation = _match(ann_file, predictions, kind)
    with without_prints():
        evaluation.accumulate()
    truth = evaluation.cocoGt
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


def resample_ap(
    ann_file: str | Path, predictions: str | Path | list[dict], kind: str, draws: np.ndarray
) -> np.ndarray:
    """Average precision on resampled images, as pycocotools has it of images that are repeated.

    Detections are matched once: that depends on no other image.

    Args:
        ann_file: As for :func:`evaluate_coco`.
        predictions: Likewise.
        kind: Likewise.
        draws: How often each of V images is in each of R samples, ``(R, V)``, the images being
            in the order of their ids.

    Returns:
        ``ap`` and ``ap50`` of each, in percent, ``(R, 2)``; nan where nothing is annotated.
    """
    evaluation = _match(ann_file, predictions, kind)
    recalls, images = evaluation.params.recThrs, len(evaluation.params.imgIds)
    classes: list[Any] = []
    for start in range(0, len(evaluation.evalImgs), images * len(evaluation.params.areaRng)):
        of_class = evaluation.evalImgs[start : start + images]  # objects of any size
        there = [(number, one) for number, one in enumerate(of_class) if one is not None]
        classes += [tuple(zip(*there))] if there else []
    if not classes:
        return np.full((len(draws), 2), np.nan)
    parts = (draws[start : start + _AT_ONCE] for start in range(0, len(draws), _AT_ONCE))
    aps = [
        [_class_ap(numbers, matched, part, recalls) for numbers, matched in classes]
        for part in parts
    ]
    aps = np.concatenate(aps, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # a sample has no object
        by_threshold = np.nanmean(aps, axis=0)
    return 100 * np.stack([by_threshold.mean(axis=1), by_threshold[:, 0]], axis=1)


def _class_ap(
    numbers: tuple[int, ...], matched: tuple[dict, ...], draws: np.ndarray, recalls: np.ndarray
) -> np.ndarray:
    """AP of one class on each sample, ``(R, T)`` for T thresholds; nan where none is annotated."""
    image = np.repeat(numbers, [len(one['dtScores']) for one in matched])
    order = np.argsort(-np.concatenate([one['dtScores'] for one in matched]), kind='stable')
    hits, ignored = (
        np.concatenate([one[name] for one in matched], axis=1)[:, order].astype(bool)
        for name in ('dtMatches', 'dtIgnore')
    )
    objects = draws[:, numbers] @ [np.sum(np.equal(one['gtIgnore'], 0)) for one in matched]
    times = draws[:, image[order]]
    aps = np.full((len(draws), len(hits)), np.nan)
    for threshold, (hit, aside) in enumerate(zip(hits & ~ignored, ignored)):
        # Between two hits precision falls, and what it is at a recall is its highest from there on.
        found = np.cumsum(times[:, hit], axis=1)
        precision = found / np.maximum(np.cumsum(times * ~aside, axis=1)[:, hit], 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for sample in objects.nonzero()[0]:
            reached = np.searchsorted(found[sample] / objects[sample], recalls)
            reached = reached[reached < len(precision[sample])]
            aps[sample, threshold] = precision[sample, reached].sum() / len(recalls)
    return aps


def _match(ann_file: str | Path, predictions: str | Path | list[dict], kind: str) -> Any:
    """Detections matched with objects, image by image."""
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
    return evaluation


def _percent(precision: np.ndarray) -> float:
    known = precision[~np.isnan(precision)]
    return 100 * float(known.mean()) if known.size else float('nan')
