"""A COCO-format set is checked before anything is trained on it."""

import math
import os
from collections import defaultdict
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..console import track
from .coco import as_id, read_coco
from .coco_images import ImageFolder, look
from .coco_shapes import (
    BoxLayout,
    Note,
    Shape,
    absent,
    are_numbers,
    check_agreement,
    check_box,
    check_mask,
    overlap,
    short,
)
from .scan import write_csv

_SHOWN = 20  # mistakes that are not many yet
_SAME, _DIFFERENT = 0.8, 0.5  # IoU of two people's boxes of one object, and of two objects' boxes
_FLAGS = {'none': 0, '': 0, '0': 0, '0.0': 0, 'false': 0, '1': 1, '1.0': 1, 'true': 1}


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
    image: str
    detail: str
    fatal: bool = True


def check_coco(ann_file: str | Path, images: str | Path) -> tuple[dict, list[Mistake]]:
    """Check a COCO-format annotation file against its images.

    Every image is read to its end and every mask rasterised. Checked are: ids
    (unknown, shared), images (missing, unreadable, of another size, outside
    the folder), boxes (degenerate, outside the image, unlike their masks) and
    masks, which may be polygons or run lengths. What is left unsaid is filled
    in: sizes, areas, and boxes of masks. The lowest and highest value of images
    with more than 8 bits are noted as ``levels`` of its ``info``.

    Args:
        ann_file: The json file.
        images: Folder that its file names start from.

    Returns:
        The content without what is wrong, and the mistakes.

    Raises:
        FileNotFoundError: If the file or the folder is not there.
        ValueError: If the file is not in COCO's format at all, or all of its
            boxes are written in another way.
    """
    return check_content(read_coco(ann_file), Path(ann_file), Path(images))


def check_content(content: dict, source: Path, images: Path) -> tuple[dict, list[Mistake]]:
    """Check what :func:`~mmsnclr.datasets.coco.read_coco` read, or the same of another source.

    Args:
        content: It is changed in place.
        source: Where it is from.
        images: Folder that its file names start from.

    Returns:
        As :func:`check_coco`.

    Raises:
        FileNotFoundError: If the folder, or every image, is not there.
        ValueError: As :func:`check_coco`.
    """
    if not images.is_dir():
        raise FileNotFoundError(f'images={str(images)!r} is not a folder')
    checker = _Checker(source.name, images, content)
    good_images = checker.check_images()
    annotations = track(content['annotations'], f'Checking the annotations of {checker.file}')
    good = checker.check_annotations(annotations)
    looks = checker.layout.found()
    if looks:
        raise ValueError(
            f"{source}: its boxes look like {looks}; COCO's are x y width height in pixels of "
            'the upper left corner and the size: convert them'
        )
    content = dict(images=good_images, annotations=good, categories=content['categories'])
    if len(set(checker.values)) > 1:
        content['info'] = dict(levels=[min(checker.values), max(checker.values)])
    return content, checker.mistakes


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
    mistakes = sorted(mistakes, key=lambda mistake: not mistake.fatal)
    for file, kind, annotation, image, detail, _ in mistakes[:_SHOWN]:
        place = image if annotation is None else f'annotation {annotation}, {image}'
        lines.append(f'  {file}: {kind}, {place}: {detail}')
    if len(mistakes) > _SHOWN:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_csv(Path(path), Mistake._fields, mistakes)
        lines.append(f'  ... all {len(mistakes)} are in {path}')
    return '\n'.join(lines)


class _Checker:
    """One pass over an annotation file; collects mistakes."""

    def __init__(self, file: str, folder: Path, content: dict) -> None:
        self.file = file
        self.folder = os.path.abspath(folder)
        self.listed = content['images']
        self.known = {as_id(image.get('id')) for image in self.listed}
        self.category_ids = {category['id'] for category in content['categories']}
        self.images: dict[int | str, dict] = {}  # by every id that a file has
        self.dropped: dict[int | str, str] = {}  # names by ids
        self.mistakes: list[Mistake] = []
        self.values: list[int] = []  # the lowest and highest of images with more than 8 bits
        self.layout = BoxLayout()

    def _note_image(self, image: dict, kind: str, detail: str, fatal: bool = True) -> None:
        number, name = as_id(image.get('id')), str(image.get('file_name') or image.get('id'))
        if fatal and number is not None:
            before = self.dropped.get(number)  # of another image of this id
            self.dropped[number] = f'{before} or {name}' if before else name
        self.mistakes.append(Mistake(self.file, kind, None, name, detail, fatal))

    def check_images(self) -> list[dict]:
        """The images that can be used, their names and sizes put right."""
        found = self._locate(self._identified())
        paths = [os.path.join(self.folder, image['file_name']) for image in found]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            looks = track(pool.map(look, paths), f'Reading the images of {self.file}', len(paths))
            for image, looked in zip(found, looks):
                if isinstance(looked, str):
                    self._note_image(image, 'image unreadable', looked)
                elif not _fill_size(image, looked.size):
                    stated = (image['width'], image['height'])
                    detail = f'{stated} is stated, {looked.size} is the size of the (upright) file'
                    self._note_image(image, 'image size', detail)
                else:
                    self.images[image['id']] = image
                    self.values += looked.values or ()
        return self._merge_names()

    def _identified(self) -> list[dict]:
        """Images with an id and a name; those that share an id are none, nor are repetitions."""
        complete: dict[tuple[int | str, str], dict] = {}
        for image in self.listed:
            number, name = as_id(image.get('id')), image.get('file_name')
            if number is None or not isinstance(name, str) or not name:
                detail = f'id {image.get("id")!r}, file_name {name!r}'
                self._note_image(image, 'incomplete image', detail)
            else:
                complete.setdefault((number, name), image)
        names = defaultdict(list)
        for number, name in complete:
            names[number].append(name)
        for (number, name), image in complete.items():
            if len(names[number]) > 1:
                others = ', '.join(other for other in names[number] if other != name)
                self._note_image(image, 'duplicate image id', f'id {number!r} is also {others}')
        return [image for (number, _), image in complete.items() if len(names[number]) == 1]

    def _locate(self, images: list[dict]) -> list[dict]:
        """Images whose files are there, by the files' names from the folder."""
        folder = ImageFolder(self.folder)
        places = [folder.find(image['file_name']) for image in images]
        given = defaultdict(set)  # by file
        for image, (name, _) in zip(images, places):
            given[name].add(image['file_name'])
        found = []
        for image, (name, why) in zip(images, places):
            path = os.path.normpath(os.path.join(self.folder, image['file_name']))
            if name is None or (len(given[name]) > 1 and name != image['file_name']):
                outside = os.path.commonpath([self.folder, path]) != self.folder
                kind = 'image outside the folder' if outside else 'image missing'
                self._note_image(image, kind, f'no file {path}{why and f"; {why}"}')
            else:
                if name != image['file_name']:
                    self._note_image(image, 'file name', f'{why}: taken as {name!r}', False)
                found.append(image | dict(file_name=name))
        if places and not any(name for name, _ in places):
            first = os.path.normpath(os.path.join(self.folder, images[0]['file_name']))
            raise FileNotFoundError(
                f'{len(places)} of {len(places)} images of {self.file} are not in {self.folder}; '
                f'the first is looked for as {first}: pass the folder that file names start from'
            )
        return found

    def _merge_names(self) -> list[dict]:
        """The images, each file once; its other ids become the first's."""
        by_name: dict[str, dict] = {}
        for number, image in list(self.images.items()):
            path = os.path.normpath(os.path.join(self.folder, image['file_name']))
            self.images[number] = by_name.setdefault(path, image)
        return list(by_name.values())

    def check_annotations(self, annotations: Iterable[dict]) -> list[dict]:
        """The annotations that can be used, numbered, as pycocotools and mmdet want them."""
        good: list[dict] = []
        others: dict[int | str, list[tuple[dict, Note]]] = defaultdict(list)
        seen: dict = {}
        for position, annotation in enumerate(annotations):
            number, image_id = as_id(annotation.get('id')), as_id(annotation.get('image_id'))
            if number is None:
                number = f'without id, number {position} in the list'
            if image_id not in self.images:
                self._note_imageless(number, image_id, annotation)
                continue
            image = self.images[image_id]
            note = partial(self._note, number, image['file_name'])
            checked = self._check_annotation(annotation, image, note)
            if checked is None:
                continue
            said = [image_id, checked['category_id'], *map(float, checked['bbox'])]
            said += [checked['iscrowd'], checked.get('segmentation')]
            key = hash(repr(said))
            if key in seen:
                note('repeated annotation', f'it says the same as {seen[key]}: left out', False)
                continue
            seen[key] = number
            if image_id == image['id']:
                good.append(checked)
            else:
                others[image_id].append((checked, note))
        by_image = defaultdict(list)
        for annotation in good if others else ():
            by_image[annotation['image_id']].append(annotation)
        for image_id, pairs in others.items():
            there = by_image[self.images[image_id]['id']]
            new = self._new_annotations(image_id, there, pairs)
            there += new
            good += new
        # pycocotools wants numbers, and takes 0 for none.
        return [dict(id=number) | annotation for number, annotation in enumerate(good, start=1)]

    def _note(
        self, number: int | str, name: str, kind: str, detail: str, fatal: bool = True
    ) -> None:
        self.mistakes.append(Mistake(self.file, kind, number, name, detail, fatal))

    def _note_imageless(
        self, number: int | str, image_id: int | str | None, annotation: dict
    ) -> None:
        if image_id in self.dropped:
            detail = 'its image is left out, and it with it'
            self._note(number, self.dropped[image_id], 'image left out', detail, False)
        else:
            detail = _unknown(annotation, 'image_id', self.known)
            self._note(number, str(annotation.get('image_id')), 'unknown image id', detail)

    def _check_annotation(self, annotation: dict, image: dict, note: Note) -> dict | None:
        """The annotation as pycocotools and mmdet want it, without an id; ``None`` if it is bad."""
        category = as_id(annotation.get('category_id'))
        if category not in self.category_ids:
            note('unknown category id', _unknown(annotation, 'category_id', self.category_ids))
            return None
        flags = [_check_flag(annotation, key, note) for key in ('iscrowd', 'ignore')]
        area: Any = annotation.get('area')
        area = area if are_numbers([area]) and area > 0 else None
        shapes = self._check_shapes(annotation, image, area, note) if None not in flags else None
        if shapes is None:
            return None
        box, shape = shapes
        kept = dict(
            image_id=image['id'],
            category_id=category,
            bbox=box,
            area=area or shape.area or box[2] * box[3],
            # mmdet learns neither, and in either pycocotools counts no detection as false.
            iscrowd=int(1 in flags),
        )
        return kept | (dict(segmentation=shape.mask) if shape.mask else {})

    def _check_shapes(
        self, annotation: dict, image: dict, area: float | None, note: Note
    ) -> tuple[list[float], Shape] | None:
        """Box and mask, the former computed if there is none; ``None`` if they are bad."""
        given: Any = annotation.get('bbox')
        of_mask: list[tuple] = []
        shape = check_mask(annotation.get('segmentation'), image, lambda *m: of_mask.append(m))
        mask_box = shape.box if shape else None
        if mask_box and (absent(given) or given == [0, 0, 0, 0]):
            given = mask_box
        elif are_numbers(given, 4):
            self.layout.add(given, image, shape, area)
        box = None
        if shape is not None or not absent(given):
            box = check_box(given, image, note)
            if box is None:  # what its mask is like does not matter
                return None
        for mistake in of_mask:
            note(*mistake)
        if shape is None or box is None:
            return None
        if mask_box and not check_agreement(box, given, image, mask_box, note):
            return None
        return box, shape

    def _new_annotations(
        self, image_id: int | str, there: list[dict], pairs: list[tuple[dict, Note]]
    ) -> list[dict]:
        """What an image's other id has beyond its first, unless the two contradict each other."""
        image = self.images[image_id]
        ids = f'id {image_id!r} is the same file as {image["id"]!r}'
        new = []
        for annotation, _ in pairs:
            box, category = annotation['bbox'], annotation['category_id']
            ious = [(overlap(box, a['bbox']), a['category_id'] == category) for a in there]
            if all(iou < _DIFFERENT for iou, _ in ious):
                new.append(annotation)
            elif not any(iou >= _SAME and alike for iou, alike in ious):
                detail = f'{ids}, and the boxes of the two contradict each other'
                self._note_image(image | dict(id=None), 'image listed twice', detail)
                for _, note in pairs:
                    note('image left out', f'those of id {image["id"]!r} are taken', False)
                return []
        detail = f'{ids}: merged, {len(new)} of its {len(pairs)} annotations are new'
        self._note_image(image, 'image listed twice', detail, False)
        return new


def _fill_size(image: dict, size: tuple[int, int]) -> bool:
    """Fill in a size that is not stated, 0 or less; whether the stated one is the file's."""
    stated: Any = [image.get('width'), image.get('height')]
    if are_numbers(stated) and min(stated) > 0 and tuple(stated) != size:
        return False
    image['width'], image['height'] = size
    return True


def _unknown(annotation: dict, key: str, known: Container[object]) -> str:
    """What is said of an id that is not known, its type being wrong perhaps."""
    value = annotation.get(key)
    text = str(value)
    if isinstance(value, str) and text.isdecimal() and int(text[:18]) in known:
        return f'{key} {text!r} is a text, the ids are numbers: write it without quotes'
    if text in known:
        return f'{key} {text} is a number, the ids are texts: write it in quotes'
    return f'{key} {short(value)}'


def _check_flag(annotation: dict, key: str, note: Note) -> int | None:
    """A value that is 0 or 1, as a number; ``None`` if it is neither."""
    value = annotation.get(key)
    if isinstance(value, float) and math.isnan(value):
        note(key, 'NaN: taken as 0', False)
        return 0
    flag = read_flag(value)
    if flag is None:
        note(key, f'{short(value)} is neither 0 nor 1')
    return flag


def read_flag(value: object) -> int | None:
    """0 or 1 as it may be written, 0 if it is not; ``None`` if it is neither."""
    return _FLAGS.get(str(value).strip().lower())
