"""Objects drawn into pictures: found ones, and beside them the true ones."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch


def draw_detections(
    image: np.ndarray,
    found: list[dict],
    classes: dict[int | str, str],
    path: str | Path,
    truth: list[dict] | None = None,
    threshold: float = 0.3,
) -> Path:
    """Draw objects with their boxes, masks, classes and scores.

    Args:
        image: ``(H, W, 3)`` uint8 BGR.
        found: Detections in COCO's result format: ``bbox``, ``category_id``,
            ``score`` and, for masks, ``segmentation``.
        classes: Name of each category id.
        path: Picture to write.
        truth: Annotations in COCO's format; if given, these are drawn on the
            left and the detections on the right.
        threshold: Score from which on a detection is drawn.

    Returns:
        The picture's path.
    """
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer()
    names = tuple(name.replace('$', r'\$') for name in classes.values())  # no formula
    visualizer.dataset_meta = dict(classes=names, palette='random')
    sample = DetDataSample()
    found = [detection for detection in found if detection['score'] >= threshold]
    sample.pred_instances = _instances(found, classes, image.shape[:2])
    sample.pred_instances.scores = torch.tensor([float(d['score']) for d in found])
    if truth is not None:
        sample.gt_instances = _instances(truth, classes, image.shape[:2])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # of boxes that reach the edge, and letters without a font
        warnings.filterwarnings('ignore', message='.*out of bounds|Glyph')
        visualizer.add_datasample(
            'image',
            image[..., ::-1],
            sample,
            draw_gt=truth is not None,
            pred_score_thr=-1,  # the detections are chosen already
            out_file=str(path),
        )
    return Path(path)


def _instances(objects: list[dict], classes: dict[int | str, str], shape: tuple[int, ...]) -> Any:
    """COCO's objects as mmdet's instances."""
    from mmengine.structures import InstanceData

    labels = {category: number for number, category in enumerate(classes)}
    boxes = torch.tensor([o['bbox'] for o in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([labels[o['category_id']] for o in objects]).long()
    )
    if objects and all(o.get('segmentation') for o in objects):
        instances.masks = np.stack([_pixels(o['segmentation'], shape) for o in objects])
    return instances


def _pixels(mask: list | dict, shape: tuple[int, ...]) -> np.ndarray:
    """Polygons or run lengths as an array of 0 and 1."""
    from pycocotools import mask as mask_tools

    if isinstance(mask, list):
        mask = mask_tools.merge(mask_tools.frPyObjects(mask, *shape))
    elif isinstance(mask['counts'], list):
        mask = mask_tools.frPyObjects(mask, *shape)
    return mask_tools.decode(mask).astype(bool)
