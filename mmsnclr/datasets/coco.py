"""A COCO-format set is checked before anything is trained on it."""

import csv
import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..console import track

_EXIF_ORIENTATION, _EXIF_TURNED = 274, (5, 6, 7, 8)
_SHOWN = 20  # mistakes that are not many yet


class CocoSet(NamedTuple):
    """A set in COCO's format.

    Attributes:
        content: ``images``, ``annotations`` and ``categories``.
        file: The annotation file.
        images: Folder that its file names start from.
    """

    content: dict
    file: Path
    images: Path


class Mistake(NamedTuple):
    """Something wrong in an annotation file.

    Attributes:
        file: Name of the annotation file.
        kind: What is wrong, in a few words.
        annotation: Id of the annotation, ``None`` if it is the image that is wrong.
        image: File name of the image, or its id if it has none.
        detail: What was found.
        fatal: Whether it has to be mended or left out on request; if not, it is
            put right as ``detail`` says.
    """

    file: str
    kind: str
    annotation: int | str | None
    image: str | None
    detail: str
    fatal: bool = True


def check_coco(ann_file: str | Path, images: str | Path) -> tuple[dict, list[Mistake]]:
    """Check a COCO-format annotation file against its images.

    Every image's header is read and every mask rasterised. Checked are: ids
    (unknown, duplicate), images (missing, unreadable, of another size, outside
    the folder), boxes (degenerate, outside the image) and masks, which may be
    polygons or run lengths.

    Args:
        ann_file: The json file.
        images: Folder that its file names start from.

    Returns:
        The content without what is wrong, sizes and areas filled in, and the
        mistakes.

    Raises:
        FileNotFoundError: If the file or the folder is not there.
        ValueError: If the file is not in COCO's format at all.
    """
    content = _read(ann_file)
    if not Path(images).is_dir():
        raise FileNotFoundError(f'images={str(images)!r} is not a folder')
    checker = _Checker(Path(ann_file).name, Path(images), content)
    name = Path(ann_file).name
    listed = track(content['images'], f'Checking the images of {name}')
    good_images = checker.check_images(listed)
    annotations = track(content['annotations'], f'Checking the annotations of {name}')
    good = checker.check_annotations(annotations)
    content = dict(images=good_images, annotations=good, categories=content['categories'])
    return content, checker.mistakes


def objects_of(content: dict) -> tuple[list[dict], list[dict]]:
    """The images of a set with single objects, and their annotations; crowds are left out."""
    objects = [ann for ann in content['annotations'] if not ann['iscrowd']]
    having = {ann['image_id'] for ann in objects}
    return [image for image in content['images'] if image['id'] in having], objects


def split_coco(content: dict, share: float, seed: int) -> tuple[dict, dict]:
    """Split a set by images, at random, annotated ones alone being drawn for validation.

    Args:
        content: A set in COCO's format.
        share: Share of the annotated images to validate on; one at least.
        seed: Seed of the draw.

    Returns:
        The training and the validation set.

    Raises:
        ValueError: If there are fewer than two annotated images.
    """
    annotated = sorted({ann['image_id'] for ann in content['annotations']}, key=str)
    if len(annotated) < 2:
        raise ValueError(
            f'{len(annotated)} images have annotations, too few to set some aside for '
            'validation: add images or pass a validation set (--val)'
        )
    drawn = set(random.Random(seed).sample(annotated, max(1, round(share * len(annotated)))))

    def part(inside: bool) -> dict:
        return content | dict(
            images=[i for i in content['images'] if (i['id'] in drawn) == inside],
            annotations=[a for a in content['annotations'] if (a['image_id'] in drawn) == inside],
        )

    return part(False), part(True)


def describe_mistakes(mistakes: list[Mistake], path: str | Path) -> str:
    """List mistakes, or the first of many, all of which are then in a csv file.

    Args:
        mistakes: What :func:`check_coco` found.
        path: The csv file.

    Returns:
        Lines for the user.
    """
    fatal = sum(mistake.fatal for mistake in mistakes)
    lines = [f'Mistakes in the annotations: {len(mistakes)}, {fatal} of which cannot be put right:']
    for file, kind, annotation, image, detail, _ in mistakes[:_SHOWN]:
        place = image if annotation is None else f'annotation {annotation}, {image}'
        lines.append(f'  {file}: {kind}, {place}: {detail}')
    if len(mistakes) > _SHOWN:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'w', newline='') as file:
            csv.writer(file).writerows([Mistake._fields, *mistakes])
        lines.append(f'  ... all {len(mistakes)} are in {path}')
    return '\n'.join(lines)


def _read(ann_file: str | Path) -> dict:
    if not Path(ann_file).is_file():
        raise FileNotFoundError(f'no annotation file at {str(ann_file)!r}')
    try:
        content = json.loads(Path(ann_file).read_bytes())
    except (ValueError, RecursionError) as error:  # the latter if it is nested too deep
        raise ValueError(f'{ann_file} is no json file: {error}') from error
    for name in ('images', 'annotations', 'categories'):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise ValueError(f"{ann_file} is not in COCO's format: it has no list {name!r}")
    for category in content['categories']:
        if isinstance(category.get('name'), int):
            category['name'] = str(category['name'])
    for key in ('id', 'name'):
        counts = Counter(_id(category, key) for category in content['categories'])
        wrong = [value for value, count in counts.items() if count > 1 or value is None]
        if wrong or not counts:
            raise ValueError(
                f'{ann_file}: each category needs an {key} of its own'
                f'{f", unlike {wrong[:5]}" if wrong else ", and there is none"}'
            )
    return content


def _numbers(values: Any, count: int | None = None) -> bool:
    """Whether these are numbers, as many as asked for, whose sums and products do not overflow."""
    return (
        isinstance(values, list)
        and (count is None or len(values) == count)
        and all(isinstance(v, int | float) and abs(v) < 2**53 for v in values)
    )


def _id(entry: dict, key: str) -> int | str | None:
    return entry.get(key) if isinstance(entry.get(key), int | str) else None


class _Checker:
    """One pass over an annotation file; collects mistakes."""

    def __init__(self, file: str, folder: Path, content: dict) -> None:
        self.file = file
        self.folder = os.path.abspath(folder)
        self.category_ids = {category['id'] for category in content['categories']}
        self.listed = {_id(image, 'id') for image in content['images']} - {None}
        self.images: dict[Any, dict] = {}
        self.mistakes: list[Mistake] = []

    def check_images(self, images: Iterable[dict]) -> list[dict]:
        names = set()
        for image in images:
            name = image.get('file_name')
            wrong = self._image_mistake(image, name, names)
            if wrong:
                shown = str(name or image.get('id'))
                self.mistakes.append(Mistake(self.file, wrong[0], None, shown, wrong[1]))
                continue
            names.add(name)
            self.images[image['id']] = image
        return list(self.images.values())

    def _image_mistake(self, image: dict, name: Any, names: set) -> tuple[str, str] | None:
        if _id(image, 'id') is None or not isinstance(name, str) or not name:
            return 'incomplete image', f'id {image.get("id")!r}, file_name {name!r}'
        if image['id'] in self.images:
            return 'duplicate image id', f'id {image["id"]!r} is also {self._name(image["id"])}'
        if name in names:
            return 'image listed twice', f'id {image["id"]!r}'
        path = os.path.normpath(os.path.join(self.folder, name))
        if os.path.commonpath([self.folder, path]) != self.folder:
            return 'image outside the folder', f'{name!r} leads out of {self.folder}'
        if not os.path.isfile(path):
            return 'image missing', f'no file {path}'
        try:
            with Image.open(path) as file:
                size = file.size
                if file.format == 'TIFF' and file.mode in ('F', 'I'):  # OpenCV does not read it
                    return 'image unreadable', f'32 bits per value (Pillow: {file.mode}), not 8'
                if file.getexif().get(_EXIF_ORIENTATION) in _EXIF_TURNED:
                    size = size[::-1]
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return 'image unreadable', str(error)
        stated = (image.setdefault('width', size[0]), image.setdefault('height', size[1]))
        if stated != size:
            return 'image size', f'{stated} is stated, {size} is the size of the (upright) file'
        return None

    def _name(self, image_id: Any) -> str:
        return self.images[image_id]['file_name']

    def check_annotations(self, annotations: Iterable[dict]) -> list[dict]:
        good, seen = [], set()
        for position, annotation in enumerate(annotations):
            number = _id(annotation, 'id')
            if number is None:
                number = f'without id, number {position} in the list'
            image = self.images.get(_id(annotation, 'image_id'))
            if image is None and _id(annotation, 'image_id') in self.listed:
                continue  # the image's own mistake is listed
            name = image['file_name'] if image else str(annotation.get('image_id'))

            def note(kind: str, detail: str, fatal: bool = True, number=number, name=name) -> None:
                self.mistakes.append(Mistake(self.file, kind, number, name, detail, fatal))

            if number in seen:
                note('duplicate annotation id', f'id {number!r} was there before')
            elif image is None:
                note('unknown image id', f'image_id {annotation.get("image_id")!r}')
            elif _id(annotation, 'category_id') not in self.category_ids:
                note('unknown category id', f'category_id {annotation.get("category_id")!r}')
            else:
                box = _check_box(annotation.get('bbox'), image, note)
                mask, area = _check_mask(annotation.get('segmentation'), image, note)
                if box is not None and area is not None:
                    stated = annotation.get('area')
                    stated = stated if _numbers([stated]) and stated > 0 else None
                    kept = dict(
                        # pycocotools wants numbers, and takes 0 for none.
                        id=len(good) + 1,
                        image_id=image['id'],
                        category_id=annotation['category_id'],
                        bbox=box,
                        area=stated or area or box[2] * box[3],
                        iscrowd=int(bool(annotation.get('iscrowd'))),
                    )
                    good.append(kept | (dict(segmentation=mask) if mask else {}))
            seen.add(number)
        return good


def _check_box(box: Any, image: dict, note: Any) -> list[float] | None:
    """The box within the image, ``None`` if there is nothing of it."""
    if not _numbers(box, 4) or box[2] <= 0 or box[3] <= 0:
        note('degenerate box', f'bbox {box!r}')
        return None
    x, y, width, height = box
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image['width']), min(y + height, image['height'])
    inside = max(right - left, 0) * max(bottom - top, 0) / (width * height)
    size = f'{image["width"]} x {image["height"]}'
    if inside < 0.5:
        note('box outside the image', f'bbox {box} in {size}')
        return None
    if max(left - x, top - y, x + width - right, y + height - bottom) > 1:
        note('box partly outside the image', f'bbox {box} in {size}: cut at the edge', False)
    if right - left < 1 or bottom - top < 1:
        note('box of less than a pixel', f'bbox {box}: left out', False)
        return None
    return [left, top, right - left, bottom - top]


def _check_mask(mask: Any, image: dict, note: Any) -> tuple[Any, float | None]:
    """The mask without its bad polygons, and its area, ``None`` if there is nothing of it."""
    from pycocotools import mask as mask_tools  # comes with mmdet

    if not mask:
        return None, 0
    height, width = image['height'], image['width']
    if isinstance(mask, list):
        good = [part for part in mask if _numbers(part) and len(part) >= 6 and len(part) % 2 == 0]
        area = 0
        if good:
            lengths = mask_tools.merge(mask_tools.frPyObjects(good, height, width))
            area = int(mask_tools.area(lengths))
        if not area:
            note('degenerate polygon', f'{len(mask)} polygons cover no pixel of the image')
            return None, None
        if len(good) < len(mask):
            bad = len(mask) - len(good)
            note('degenerate polygon', f'{bad} of {len(mask)} polygons left out', False)
        return good, area
    try:
        counts, size = mask['counts'], list(mask['size'])
        if size != [height, width]:
            raise ValueError(f'its size is {size}, not {[height, width]}')
        if isinstance(counts, list):
            if not _numbers(counts) or min(counts, default=0) < 0 or sum(counts) != height * width:
                raise ValueError('its counts do not add up to the image')
            lengths = mask_tools.frPyObjects(mask, height, width)
        else:
            lengths = dict(size=size, counts=counts)
        area = int(mask_tools.decode(lengths).sum())
    except (KeyError, TypeError, ValueError) as error:
        note('bad run lengths', f'{type(error).__name__}: {error}')
        return None, None
    if not area:
        note('empty mask', 'its run lengths cover no pixel')
        return None, None
    return mask, area
