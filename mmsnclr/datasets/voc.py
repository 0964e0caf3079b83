"""Pascal VOC's sets: an xml file for each image, and lists of images.

mmdet's ``XMLDataset`` and supervision do not name the file that is wrong, and leave out without a
word what they do not know, so that they are read here.
"""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..console import say
from .coco_check import Mistake, read_flag
from .coco_shapes import short
from .label_files import LabelFiles, find_files, find_images, from_here
from .lists import read_text
from .parts import part_named

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class _File(NamedTuple):
    """An xml file, as it was read.

    Attributes:
        origin: The file, as it is shown.
        image: File name of its image and what of its size is stated.
        objects: Class, box and whether it is difficult, by the number of the object.
    """

    origin: str
    image: dict
    objects: dict[int, tuple[str, list[float], int]]


def read_voc(folder: Path, images: Path | None = None) -> dict[str, LabelFiles]:
    """Read a set of Pascal VOC.

    Boxes are of whole pixels, numbered from 1. Difficult objects are to be ignored.

    Args:
        folder: Folder of xml files, or the one that holds them as ``Annotations``.
        images: Folder of the images; by default ``JPEGImages`` or ``images`` beside the xml
            files' folder, or that itself.

    Returns:
        The parts ``'train'`` and, if there are ``ImageSets/Main/train.txt`` and ``val.txt``,
        ``'val'``, both with the classes of the former; of ``trainval.txt`` alone ``'train'``.
        Without lists they are the folders ``train`` and ``valid`` (as of Roboflow), if all xml
        files lie in these or in ``test``.

    Raises:
        FileNotFoundError: If there are no xml files or images.
        ValueError: If a list of images is empty.
    """
    inner = (path for path in sorted(folder.iterdir()) if path.name.lower() == 'annotations')
    labels = next(filter(Path.is_dir, inner), folder)
    xmls = {_stem(path.relative_to(labels)): path for path in find_files(labels, ('.xml',))}
    if not xmls:
        raise FileNotFoundError(
            f'{folder} holds neither xml files (Pascal VOC) nor data.yaml (YOLO)'
        )
    places = (
        [images] if images else [labels, labels.parent / 'JPEGImages', labels.parent / 'images']
    )
    images, found = next(
        ((place, paths) for place in places if place.is_dir() and (paths := find_images(place))),
        (None, []),
    )
    if images is None:
        raise FileNotFoundError(
            f'no images in {", ".join(map(str, places))}: pass the folder of the images (IMAGES)'
        )
    reader = _Reader(labels, xmls, [str(path.relative_to(images)) for path in found])
    lists = labels.parent / 'ImageSets' / 'Main'
    parts = dict(train=lists / 'train.txt', val=lists / 'val.txt')
    if not parts['train'].is_file():
        parts = dict(train=lists / 'trainval.txt')  # beside it are those to test on
    read = {
        part: reader.read(_listed(file, xmls), file.name)
        for part, file in parts.items()
        if file.is_file()
    } or {part: reader.read(stems, folder.name) for part, stems in _parts(labels, xmls).items()}
    classes = sorted({name for file in read['train'][0] for name, *_ in file.objects.values()})
    return {
        part: LabelFiles(
            _content(files, classes, mistakes),
            images,
            {file.image['file_name']: file.origin for file in files},
            mistakes,
        )
        for part, (files, mistakes) in read.items()
    }


def _parts(folder: Path, xmls: Iterable[str]) -> dict[str, list[str]]:
    """The parts that folders tell, or else all as ``'train'``; those to test on are said."""
    parts: dict[str | None, list[str]] = {}
    for stem in sorted(xmls):
        first, inside, _ = stem.partition(os.sep)
        parts.setdefault(part_named(first) if inside else None, []).append(stem)
    if None in parts or 'train' not in parts:
        return dict(train=sorted(xmls))
    if tests := parts.get('test'):
        place = folder / tests[0].split(os.sep)[0]
        say(f'{len(tests):,} xml files of {place} are not learned from: they are to test on')
    return {part: parts[part] for part in ('train', 'val') if part in parts}


def _listed(file: Path, xmls: Container[str]) -> list[str]:
    """Images in a list of VOC, which may have suffixes, and say more after each."""
    names = []
    for line in filter(None, map(str.strip, read_text(file).splitlines())):
        first = line.split()[0]
        readings = line, _stem(line), first, _stem(first)
        names.append(next((name for name in readings if name in xmls), first))
    if not names:
        raise ValueError(f'{file} lists no images: remove it, or write their names into it')
    return names


def _stem(name: str | Path) -> str:
    return os.path.splitext(name)[0]


class _Reader:
    """Reads the xml files in a folder."""

    def __init__(self, folder: Path, xmls: dict[str, Path], images: list[str]) -> None:
        self.folder = folder
        self.xmls = xmls
        self.images: dict[str, list[str]] = {}  # file names by what they are without suffix
        for name in images:
            self.images.setdefault(_stem(name), []).append(name)

    def read(self, stems: list[str], source: str) -> tuple[list[_File], list[Mistake]]:
        """The files of these images, and what is wrong in them."""
        files, mistakes = [], []
        for stem in dict.fromkeys(stems):
            if stem not in self.xmls:
                detail = f'it is listed, and {self.folder / stem}.xml is not there'
                mistakes.append(Mistake(source, 'annotation missing', None, stem, detail))
                continue
            origin = from_here(self.xmls[stem], self.folder.parent)
            try:
                root = _parse(self.xmls[stem])
            # Of unknown encodings, too.
            except (LookupError, OSError, ElementTree.ParseError, ValueError) as error:
                mistakes.append(Mistake(origin, 'xml', None, stem, f'{error}'))
                continue
            name = self._image(stem, (root.findtext('filename') or '').strip())
            size = {key: _number(root.findtext(f'size/{key}')) for key in ('width', 'height')}
            objects = {}
            for number, element in enumerate(root.findall('object'), start=1):
                try:
                    objects[number] = _object(element)
                except ValueError as error:
                    kind, detail = error.args
                    mistakes.append(Mistake(origin, kind, f'object {number}', name, detail))
            files.append(_File(origin, dict(file_name=name) | size, objects))
        return files, mistakes

    def _image(self, stem: str, stated: str) -> str:
        """The image of an xml file: of its name, or else that which it states."""
        names = self.images.get(stem) or self.images.get(_stem(stated)) or [stated or stem]
        same = (name for name in names if os.path.basename(name) == os.path.basename(stated))
        return next(same, names[0])


def _parse(path: Path) -> ElementTree.Element:
    """The root of an xml file, without namespaces."""
    root = ElementTree.parse(path).getroot()
    for element in root.iter():
        if isinstance(element.tag, str):  # no comment
            element.tag = element.tag.rpartition('}')[2]
    if root.tag != 'annotation':
        raise ValueError(f'it is <{root.tag}>, not <annotation> as of Pascal VOC')
    return root


def _number(text: str | None) -> float | None:
    try:
        value = float(text or '')
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


def _object(element: ElementTree.Element) -> tuple[str, list[float], int]:
    """Class, box and whether it is difficult; the error says what kind of mistake it is."""
    name = (element.findtext('name') or '').strip()
    if not name:
        raise ValueError('unknown class', 'the object has no name')
    stated = [element.findtext(f'bndbox/{corner}') for corner in _CORNERS]
    detail = ', '.join(f'{corner} {short(text)}' for corner, text in zip(_CORNERS, stated))
    corners = [number for number in map(_number, stated) if number is not None]
    if len(corners) < len(_CORNERS):
        raise ValueError('degenerate box', f'{detail}: four numbers are needed')
    left, top, right, bottom = corners
    if not (left <= right and top <= bottom):  # of nan, too
        raise ValueError('degenerate box', detail)
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    text = element.findtext('difficult')
    difficult = read_flag(text)
    if difficult is None:
        raise ValueError('difficult', f'{short(text)} is neither 0 nor 1')
    return name, box, difficult


def _content(files: list[_File], classes: list[str], mistakes: list[Mistake]) -> dict:
    """Files as a set in COCO's words; objects of other classes are added to the mistakes."""
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    annotations = list(_annotations(files, numbers, mistakes))
    return dict(
        images=[dict(id=number) | file.image for number, file in enumerate(files, start=1)],
        annotations=annotations,
        categories=[dict(id=number, name=name) for name, number in numbers.items()],
    )


def _annotations(
    files: list[_File], numbers: dict[str, int], mistakes: list[Mistake]
) -> Iterator[dict]:
    for image_id, file in enumerate(files, start=1):
        for number, (name, box, difficult) in file.objects.items():
            place = f'object {number}'
            if name not in numbers:
                known = ', '.join(list(numbers)[:10])
                detail = f'{name!r} is not among those to learn from ({known})'
                image = file.image['file_name']
                mistakes.append(Mistake(file.origin, 'unknown class', place, image, detail))
                continue
            ids = dict(id=place, image_id=image_id, category_id=numbers[name])
            yield ids | dict(bbox=box, ignore=difficult)
