"""Find objects in images with a trained detector, or classify them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from mmcv import imread

from ..backbones.classifier import read_classifier
from ..checkpoints import Stored, at_hand
from ..console import say, track
from ..datasets.coco import read_image_ids
from ..datasets.coco_images import ImageFolder
from ..datasets.listing import list_images
from ..parents import without_prints
from ..requirements import check_detection_requirements
from ..visualization.detections import draw_detections
from .predict_classes import predict_classes


def predict(
    checkpoint: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    threshold: float = 0.3,
    image_root: str | Path | None = None,
) -> list[dict]:
    """Find objects, and write them down and into pictures; or classify, by a classifier.

    Args:
        checkpoint: A detector that :func:`mmsnclr.api.detect.detect` trained, or a classifier,
            for which see :func:`~mmsnclr.api.predict_classes.predict_classes`.
        images: Folders, text files with paths, COCO json files or image files.
        out: Folder that receives ``predictions.json``, in COCO's result format
            with file names from the folder that all images share, and
            ``pictures/``.
        threshold: Lowest score of what is kept, 0 to 1.
        image_root: Folder from which paths in text and json files are meant;
            by default the folder of the file.

    Returns:
        The predictions. ``image_id`` is that of the json files, if all images
        are of such; else it counts the images, those of a folder sorted.

    Raises:
        FileNotFoundError: If the checkpoint or the images are not there.
        ImportError: If mmdet or mmcv's operators are missing.
        ValueError: If the checkpoint is not a detector of ``detect``, the
            threshold is out of range, no image can be read, or ``out`` has
            predictions.
    """
    stored = Stored.read(checkpoint)
    if read_classifier(stored) is not None:
        return predict_classes(stored, images, out, image_root)
    out = Path(out)
    if (out / 'predictions.json').exists():
        raise ValueError(f'out={str(out)!r} holds predictions already: choose another folder')
    if not 0 <= threshold <= 1:
        raise ValueError(f'threshold={threshold} must lie between 0 and 1')
    images = [images] if isinstance(images, str | Path) else images
    paths = list_images(images, image_root)
    ids = _image_ids(images, paths, image_root)
    check_detection_requirements()
    model = _load(stored, threshold)
    meta = model.dataset_meta
    classes = dict(zip(meta['category_ids'], meta['classes']))

    root = _common_folder(images, paths)
    predictions, unreadable = [], []
    for image_id, path in zip(ids, track(paths, 'Finding objects')):
        instances = _find(model, path)
        if instances is None:
            unreadable.append(str(path))
            continue
        name = path.relative_to(root)
        found = _as_coco(instances[instances.scores >= threshold], image_id, name, classes)
        picture = out / 'pictures' / name.with_name(f'{name.name}.jpg')
        draw_detections(path, found, classes, picture, threshold=threshold)
        predictions += found
    if len(unreadable) == len(paths):
        raise ValueError(f'none of the images in {", ".join(map(str, images))} can be read')
    out.mkdir(parents=True, exist_ok=True)
    (out / 'predictions.json').write_text(json.dumps(predictions), 'utf-8')
    if unreadable:
        count = f'{len(unreadable)} of {len(paths)} images'
        say(f'{count} cannot be read and were left out: {", ".join(unreadable[:5])}')
    with_some = len({prediction['image_id'] for prediction in predictions})
    say(
        f'{len(predictions)} objects with a score of {threshold} or more, in {with_some} of '
        f'{len(paths)} images; they are in {out}'
    )
    return predictions


def _image_ids(
    sources: Sequence[str | Path], paths: list[Path], image_root: str | Path | None
) -> Sequence[int | str]:
    """Ids of images: those of COCO files, if each image has one of its own there; else numbers."""
    ids = {}
    for source in map(Path, sources):
        if source.suffix.lower() == '.json':
            folder = ImageFolder(os.path.abspath(image_root or source.parent))
            for name, image_id in read_image_ids(source):
                path = os.path.abspath(Path(folder.path, folder.find(name)[0] or name))
                ids.setdefault(Path(path), image_id)
    found = [ids.get(path) for path in paths]
    if None not in found and len(set(found)) == len(found):
        return found
    if ids:
        say('image_id counts the images: not each has an id of its own in a json file')
    return range(len(paths))


def _common_folder(images: Sequence[str | Path], paths: list[Path]) -> str:
    """The folder that all images share, given ones included."""
    folders = [os.path.abspath(source) for source in images if Path(source).is_dir()]
    return os.path.commonpath([*folders, *(path.parent for path in paths)])


def _load(stored: Stored, threshold: float) -> torch.nn.Module:
    path, cfg = stored.path, stored.config
    if cfg is None or 'category_ids' not in stored.meta.get('dataset_meta', {}):
        raise ValueError(f'checkpoint={str(path)!r} is not a detector that `detect` trained')
    from mmdet.apis import init_detector

    cfg.model.test_cfg.rcnn.score_thr = threshold
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with at_hand(stored), without_prints():  # mmengine tells which backend read it
        return init_detector(cfg, str(path), palette='random', device=device)


def _find(model: torch.nn.Module, path: Path) -> Any:
    """Mmdet's instances in an image, ``None`` if it cannot be read."""
    from mmdet.apis import inference_detector

    try:
        pixels = imread(path)
        if pixels is None:
            return None
        return inference_detector(model, pixels).pred_instances.cpu()
    except (OSError, cv2.error):  # gone, empty, or of no height at the detector's size
        return None


def _as_coco(
    instances: Any, image_id: int | str, name: Path, classes: dict[int, str]
) -> list[dict]:
    """Mmdet's instances in COCO's result format."""
    from mmdet.structures.mask import encode_mask_results

    categories = list(classes)
    results = [
        dict(
            image_id=image_id,
            file_name=str(name),
            category_id=categories[label],
            category=classes[categories[label]],
            bbox=[left, top, right - left, bottom - top],
            score=score,
        )
        for (left, top, right, bottom), label, score in zip(
            instances.bboxes.tolist(), instances.labels.tolist(), instances.scores.tolist()
        )
    ]
    if 'masks' in instances:
        for result, mask in zip(results, encode_mask_results(instances.masks.numpy())):
            counts = mask['counts'].decode()
            result['segmentation'] = dict(size=list(mask['size']), counts=counts)
    return results
