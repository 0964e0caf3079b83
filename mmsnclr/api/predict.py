"""Find objects in images with a trained detector, or classify them."""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import Compose, pseudo_collate

from ..backbones.classifier import read_classifier
from ..checkpoints import Stored, at_hand, refuse_inputs, sole_writer
from ..console import say, track
from ..datasets.coco import read_image_ids
from ..datasets.coco_images import ImageFolder
from ..datasets.decoding import read_image
from ..datasets.listing import list_images
from ..datasets.loading_errors import UNREADABLE
from ..datasets.scan import tell_of_unreadable
from ..engine.run import latest_checkpoint
from ..parents import without_prints
from ..requirements import check_detection_requirements
from ..visualization.detections import draw_detections
from .predict_classes import predict_classes

_LARGE = 2  # times the detector's size, from which on much is lost


@sole_writer
def predict(
    checkpoint: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    threshold: float = 0.3,
    image_root: str | Path | None = None,
    batch: int | None = None,
) -> list[dict]:
    """Find objects, and write them down and into pictures; or classify, by a classifier.

    Args:
        checkpoint: A detector that :func:`mmsnclr.api.detect.detect` trained, or a classifier,
            for which see :func:`~mmsnclr.api.predict_classes.predict_classes`; the folder
            that either wrote stands for the newest checkpoint in it.
        images: As for :func:`~mmsnclr.datasets.listing.list_images`.
        out: Folder that receives ``predictions.json``, in COCO's result format
            with file names from the folder that all images share, and
            ``pictures/``; and ``left_out.csv`` if images cannot be read.
        threshold: Lowest score of an object that is kept, 0 to 1.
        image_root: Folder from which paths in text and json files are meant;
            by default the folder of the file.
        batch: Images that are looked at at once, those of a detector as far as they are of a
            size; by default 1 by a detector and 32 by a classifier.

    Returns:
        The predictions. ``image_id`` is that of the json files, if all images
        are of such; else it counts the images, those of a folder sorted.

    Raises:
        FileNotFoundError: If the checkpoint or the images are not there.
        ImportError: If mmdet or mmcv's operators are missing.
        ValueError: If the checkpoint is neither of both, a setting is out of
            range, no image can be read, or ``out`` has predictions.
    """
    refuse_inputs(out, ['left_out.csv'], dict(images=images))
    if Path(checkpoint).is_dir():
        training = Path(checkpoint, 'training')
        checkpoint = latest_checkpoint(training if training.is_dir() else checkpoint)
    stored, out = Stored.read(checkpoint), Path(out)
    if any((out / f'predictions.{kind}').exists() for kind in ('csv', 'json')):
        raise ValueError(f'out={str(out)!r} holds predictions already: choose another folder')
    if not 0 <= threshold <= 1:
        raise ValueError(f'threshold={threshold} must lie between 0 and 1')
    if batch is not None and batch < 1:
        raise ValueError(f'batch={batch} must be at least 1')
    if read_classifier(stored) is not None:
        return predict_classes(stored, images, out, image_root, batch or 32)
    images = [images] if isinstance(images, str | Path) else images
    return _predict_objects(stored, images, out, threshold, image_root, batch or 1)


def _predict_objects(
    stored: Stored,
    images: Sequence[str | Path],
    out: Path,
    threshold: float,
    image_root: str | Path | None,
    batch: int,
) -> list[dict]:
    """Find objects by a detector, of arguments as :func:`predict` has them."""
    paths = list_images(images, image_root)
    ids = _image_ids(images, paths, image_root)
    check_detection_requirements()
    model = _load(stored, threshold)
    meta: Any = model.dataset_meta
    classes = dict(zip(meta['category_ids'], meta['classes']))

    pipeline, size, levels = _pipeline(model)
    root = _common_folder(images, paths)
    predictions, unreadable, large = [], [], 0
    chunks = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    results = chain.from_iterable(
        _find(model, pipeline, chunk) for chunk in track(chunks, 'Finding objects')
    )
    for image_id, path, result in zip(ids, paths, results):
        try:
            if isinstance(result, Exception):
                raise result
            # Damage that a detector's own loader passes over is an error here.
            pixels = read_image(path, levels)
        except UNREADABLE as error:
            unreadable.append((path, str(error)))
            continue
        name = path.relative_to(root)
        found = result.pred_instances
        found = _as_coco(found[found.scores >= threshold], image_id, name, classes)
        picture = out / 'pictures' / name.with_name(f'{name.name}.jpg')
        draw_detections(pixels, found, classes, picture, threshold=threshold)
        large += max(result.ori_shape) > _LARGE * size
        predictions += found
    tell_of_unreadable(out, unreadable, len(paths))
    (out / 'predictions.json').write_text(json.dumps(predictions), 'utf-8')
    if large:
        say(
            f'{large} images are more than {_LARGE} times as large as the {size} pixels to which '
            'the detector scales them: cut them into pieces where it misses small objects'
        )
    with_some = len({prediction['image_id'] for prediction in predictions})
    say(
        f'{len(predictions)} objects with a score of {threshold} or more, in {with_some} of '
        f'{len(paths)} images; they are in {out}'
    )
    if not predictions and threshold > 0:
        say('A lower --threshold shows what the detector is less sure of')
    return predictions


def _image_ids(
    sources: Sequence[str | Path], paths: list[Path], image_root: str | Path | None
) -> Sequence[int | str]:
    """Ids of images: those of COCO files, if each image has one of its own there; else numbers."""
    ids: dict[Path, int | str | None] = {}
    for source in map(Path, sources):
        if source.suffix.lower() == '.json':
            folder = ImageFolder(os.path.abspath(image_root or source.parent))
            for name, image_id in read_image_ids(source):
                path = os.path.abspath(Path(folder.path, folder.find(name)[0] or name))
                ids.setdefault(Path(path), image_id)
    found = [own for path in paths if (own := ids.get(path)) is not None]
    if len(set(found)) == len(paths):
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
        raise ValueError(
            f'checkpoint={str(path)!r} is neither a detector that `detect` trained nor a '
            'classifier: pass the folder that one of them wrote'
        )
    from mmdet.apis import init_detector

    cfg.model.test_cfg.rcnn.score_thr = threshold
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with at_hand(stored), without_prints():  # mmengine tells which backend read it
        return init_detector(cfg, str(path), palette='random', device=device)


def _pipeline(model: torch.nn.Module) -> tuple[Compose, int, tuple[int, int] | None]:
    """How the detector loads an image, its size in pixels, and its values of black and white."""
    from mmdet.utils import get_test_pipeline_cfg

    steps = get_test_pipeline_cfg(model.cfg)
    (scale,) = (step.scale for step in steps if 'scale' in step)
    return Compose(steps), max(scale), steps[0].get('levels')


def _find(model: Any, pipeline: Compose, paths: list[Path]) -> list[Any]:
    """Mmdet's results for images; the error for one that cannot be read.

    Those that are padded to the same size are looked at together, so that padding changes nothing.
    """
    found: list[Any] = []
    alike = defaultdict(list)
    divisor = model.data_preprocessor.pad_size_divisor
    for number, path in enumerate(paths):
        try:
            found.append(pipeline(dict(img_path=str(path), img_id=0)))
        except UNREADABLE as error:
            found.append(error)
        else:
            padded = tuple(-(-edge // divisor) for edge in found[-1]['inputs'].shape)
            alike[padded].append(number)
    for numbers in alike.values():
        with torch.no_grad():
            results = model.test_step(pseudo_collate([found[number] for number in numbers]))
        for number, result in zip(numbers, results):
            found[number] = result.cpu()
    return found


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
