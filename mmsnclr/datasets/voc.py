"""Pascal VOC's sets: an xml file for each image, and lists of images.

mmdet's ``XMLDataset`` and supervision do not name the file that is wrong, and leave out without a
word what they do not know, so that they are read here.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .coco_check import Mistake
from .coco_shapes import short
from .label_files import LabelFiles, find_files, find_images, from_here
from .listing import read_text

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
    objects: dict[int, tuple[str, list[float], str | None]]


def read_voc(folder: Path, images: Path | None = None) -> dict[str, LabelFiles]:
    """Read a set of Pascal VOC.

    Boxes are of whole pixels, numbered from 1. Difficult objects are to be ignored.

    Args:
        folder: Folder of xml files, or the one that holds them as ``Annotations``.
        images: Folder of the images; by default ``JPEGImages`` or ``images`` beside the xml
            files' folder, or that itself.

    Returns:
        The parts ``'train'`` and, if there are ``ImageSets/Main/train.txt`` and ``val.txt``,
        ``'val'``, both with the classes of the former.

    Raises:
        FileNotFoundError: If there are no xml files or images.
    """
    inner = (path for path in sorted(folder.iterdir()) if path.name.lower() == 'annotations')
    labels = next(filter(Path.is_dir, inner), folder)
    xmls = {
        str(path.relative_to(labels).with_suffix('')): path for path in find_files(labels, '*.xml')
    }
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
    names = [str(path.relative_to(images)) for path in found]
    reader = _Reader(labels, xmls, {str(Path(name).with_suffix('')): name for name in names})
    lists = labels.parent / 'ImageSets' / 'Main'
    parts = {part: lists / f'{part}.txt' for part in ('train', 'val')}
    if not parts['train'].is_file():
        read = dict(train=reader.read(sorted(xmls), folder.name))
    else:
        read = {
            part: reader.read(_listed(file), file.name)
            for part, file in parts.items()
            if file.is_file()
        }
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


def _listed(file: Path) -> list[str]:
    """Names in a list of VOC, which may say more after each."""
    return [line.split()[0] for line in read_text(file).splitlines() if line.strip()]


class _Reader:
    """Reads the xml files in a folder."""

    def __init__(self, folder: Path, xmls: dict[str, Path], images: dict[str, str]) -> None:
        self.folder = folder
        self.xmls = xmls
        self.images = images  # file names by what they are without suffix

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
                root = ElementTree.parse(self.xmls[stem]).getroot()
            except (OSError, ElementTree.ParseError, ValueError) as error:
                mistakes.append(Mistake(origin, 'xml', None, stem, f'{error}'))
                continue
            name = self.images.get(stem) or self._stated(root) or stem
            size = {key: _number(root.findtext(f'size/{key}')) for key in ('width', 'height')}
            objects = {}
            for number, element in enumerate(root.findall('object'), start=1):
                problem = _problem(element)
                if problem:
                    mistakes.append(
                        Mistake(origin, problem[0], f'object {number}', name, problem[1])
                    )
                else:
                    objects[number] = _object(element)
            files.append(_File(origin, dict(file_name=name) | size, objects))
        return files, mistakes

    def _stated(self, root: ElementTree.Element) -> str:
        """The image that an xml file names, which need not have its name."""
        name = (root.findtext('filename') or '').strip()
        return self.images.get(str(Path(name).with_suffix('')), name)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or '')
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


def _corners(element: ElementTree.Element) -> list[float | None]:
    return [_number(element.findtext(f'bndbox/{corner}')) for corner in _CORNERS]


def _problem(element: ElementTree.Element) -> tuple[str, str] | None:
    """Kind and detail of what is wrong with an object."""
    if not (element.findtext('name') or '').strip():
        return 'unknown class', 'the object has no name'
    corners = _corners(element)
    stated = [element.findtext(f'bndbox/{corner}') for corner in _CORNERS]
    detail = ', '.join(f'{corner} {short(text)}' for corner, text in zip(_CORNERS, stated))
    if None in corners:
        return 'degenerate box', f'{detail}: four numbers are needed'
    left, top, right, bottom = corners
    return None if left <= right and top <= bottom else ('degenerate box', detail)


def _object(element: ElementTree.Element) -> tuple[str, list[float], str | None]:
    left, top, right, bottom = _corners(element)
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    return element.findtext('name').strip(), box, element.findtext('difficult')


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
