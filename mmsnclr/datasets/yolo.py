"""YOLO sets: data.yaml, images and, for each of them, a text file with an object per line.

No library reads them here: supervision makes pixels of polygons and stops at the first bad line
without naming its file, globox has boxes alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .coco_check import Mistake
from .coco_shapes import short
from .decoding import SUFFIXES
from .label_files import LabelFiles, find_images, from_here, upright_size
from .lists import read_text

_ROUNDING = 1e-3  # by which coordinates may leave 0 to 1
_CLASSES = 'classes.txt'  # of labelImg and Label Studio


def find_description(source: Path) -> Path | None:
    """The file that describes a YOLO set, ``None`` if there is none in a folder."""
    if source.suffix.lower() in ('.yaml', '.yml'):
        return source
    names = ('data.yaml', 'data.yml', 'dataset.yaml', _CLASSES, f'labels/{_CLASSES}')
    return next((source / name for name in names if (source / name).is_file()), None)


def read_yolo(description: Path, root: Path | None = None) -> dict[str, LabelFiles]:
    """Read a YOLO set, with boxes or polygons.

    Args:
        description: ``data.yaml`` or, where the set has none, ``classes.txt`` in the folder that
            holds ``images`` and ``labels``, or in ``labels``.
        root: Folder that paths in it start from; by default what it says, or its own.

    Returns:
        The parts ``'train'`` and, if it names other images for it, ``'val'``.

    Raises:
        FileNotFoundError: If images that it names are not there.
        ValueError: If it is not of this form, or no image has a label file.
    """
    if description.name == _CLASSES:
        lines = [line.strip() for line in read_text(description).splitlines()]
        folder = description.parent
        folder = folder.parent if folder.name == 'labels' else folder
        data: Any = dict(names=[line for line in lines if line], train='images', path=folder)
    else:
        data = _read_yaml(description)
    names = _names(data, description)
    root = root or description.parent / _slashed(data.get('path') or '')
    roots = [root, description.parent]
    parts = {
        part: _list_part(data[part], roots, f'{description}: {part}')
        for part in ('train', 'val')
        if data.get(part)
    }
    if 'train' not in parts:
        raise ValueError(f"{description} does not say where the images to learn from are ('train')")
    if parts.get('val') == parts['train']:
        del parts['val']
    return {part: _read_labels(paths, names, description) for part, paths in parts.items()}


def _read_yaml(description: Path) -> dict:
    if not description.is_file():
        raise FileNotFoundError(f'no annotation file at {str(description)!r}')
    try:
        data = yaml.safe_load(read_text(description))
    except yaml.YAMLError as error:
        raise ValueError(f'{description} is no yaml file: {error}') from error
    if not isinstance(data, dict):
        raise ValueError(f"{description} is not YOLO's data.yaml: it has no names")
    if data.get('kpt_shape'):
        raise ValueError(
            f"{description} is of keypoints ('kpt_shape'), which could be taken for polygons: take "
            'this line out of it, and the keypoints out of the label files'
        )
    return data


def _names(data: dict, description: Path) -> dict[int, str]:
    """The name of each class."""
    names = data.get('names')
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(str(key).isdigit() for key in names):
        raise ValueError(
            f"{description}: 'names' must be the list of classes, or a number and name of each"
        )
    if str(data.get('nc') or len(names)) != str(len(names)):
        raise ValueError(f"{description}: 'nc' is {data['nc']}, and there are {len(names)} names")
    for name in names.values():
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise ValueError(
                f"{description}: 'names' has {name!r}, as yaml reads some words: write it in quotes"
            )
    return {int(key): str(name) for key, name in names.items()}


def _list_part(value: Any, roots: list[Path], place: str) -> list[Path]:
    """Images of a part: of folders, or listed in text files; listed ones need not be there."""
    found: list[Path] = []
    for entry in map(_slashed, value if isinstance(value, list) else [value]):
        # Roboflow writes paths as from a folder beside its data.yaml.
        entries = (entry, entry.removeprefix('../'))
        paths = [Path(root, name) for root in roots for name in entries]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            raise FileNotFoundError(f'{place}: there is no folder or list {str(paths[0])!r}')
        if path.is_dir():
            images = find_images(path)
            if not images:
                raise ValueError(f'{place}: there are no images in {str(path)!r}')
        else:
            lines = filter(None, map(_slashed, read_text(path).splitlines()))
            folders = (path.parent, roots[0])
            images = [_first_there([folder / line for folder in folders]) for line in lines]
        found += images
    return list(dict.fromkeys(Path(os.path.abspath(path)) for path in found))


def _slashed(path: Any) -> str:
    """A path that may have been written on Windows."""
    return str(path).strip().replace('\\', '/')


def _first_there(paths: list[Path]) -> Path:
    return next((path for path in paths if path.is_file()), paths[0])


def _label_files(image: Path) -> Iterator[Path]:
    """Where the label file of an image may be: in ``labels`` in the place of ``images``, beside."""
    for place in reversed([i for i, part in enumerate(image.parts[:-1]) if part == 'images']):
        parts = (*image.parts[:place], 'labels', *image.parts[place + 1 :])
        yield Path(*parts).with_suffix('.txt')
    yield image.with_suffix('.txt')


def _read_labels(paths: list[Path], names: dict[int, str], description: Path) -> LabelFiles:
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    content = dict(
        images=[],
        annotations=[],
        categories=[dict(id=number, name=name) for number, name in names.items()],
    )
    origins: dict[str, str] = {}
    mistakes: list[Mistake] = []
    labels = {image: next(filter(Path.is_file, _label_files(image)), None) for image in paths}
    if not any(labels.values()):
        raise ValueError(
            f'{description}: none of its {len(paths)} images has a label file; the first is '
            f'looked for as {next(_label_files(paths[0]))}'
        )
    for number, (path, label) in enumerate(labels.items(), start=1):
        image: dict = dict(id=number, file_name=str(path.relative_to(folder)))
        origin = origins[image['file_name']] = from_here(label or path, description.parent)
        if label is not None:
            try:
                lines = read_text(label).splitlines()
            except (OSError, ValueError) as error:
                mistakes.append(_mistake(origin, 'label file', None, image, str(error)))
                continue
            size = upright_size(path) if lines else (1, 1)
            for place, line in enumerate(lines, start=1):
                try:
                    annotation = _read_line(line, names, *size) if line.strip() else None
                except ValueError as error:
                    mistakes.append(_mistake(origin, error.args[0], place, image, error.args[1]))
                    continue
                if annotation:
                    ids = dict(id=f'line {place}', image_id=number)
                    content['annotations'].append(ids | annotation)
        content['images'].append(image)
    mistakes += _orphans(labels, description.parent)
    return LabelFiles(content, folder, origins, mistakes)


def _mistake(origin: str, kind: str, line: int | None, image: dict, detail: str) -> Mistake:
    return Mistake(origin, kind, line and f'line {line}', image['file_name'], detail)


def _read_line(line: str, names: dict[int, str], width: int, height: int) -> dict:
    """Class and shape of an object in COCO's words; the error says what kind of mistake it is."""
    try:
        number, *values = map(float, line.split())
    except ValueError:
        raise ValueError('line', f'{short(line)} has what is no number') from None
    if number not in names:
        known = f'{min(names)} to {max(names)}'
        raise ValueError('unknown class', f'{number:g} is not among the names ({known})')
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            'line',
            f'{len(values)} numbers after the class: a box has 4 (centre and size), a polygon '
            'x and y of 3 points or more',
        )
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        worst = max(values, key=lambda value: abs(value - 0.5))
        pixels = '; they look like pixels' if min(values) >= 0 and worst > 2 else ''
        raise ValueError('coordinates outside 0 to 1', f'{worst:g} in {short(line)}{pixels}')
    if len(values) > 4:
        scaled = [value * (height if i % 2 else width) for i, value in enumerate(values)]
        return dict(category_id=int(number), segmentation=[scaled])
    x, y, w, h = values
    box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
    return dict(category_id=int(number), bbox=box)


def _orphans(labels: dict[Path, Path | None], folder: Path) -> Iterator[Mistake]:
    """Label files whose image is not there."""
    image_folders: dict[Path, set[Path]] = {}
    for image, label in labels.items():
        if label is not None:
            image_folders.setdefault(label.parent, set()).add(image.parent)
    for place, folders in image_folders.items():
        there = (path for images in folders for path in images.iterdir() if path.is_file())
        stems = {path.stem for path in there if path.suffix.lower() in SUFFIXES}
        stems |= {image.stem for image in labels}  # listed, and missed by the check of the set
        for label in sorted(place.glob('*.txt')):
            if label.stem not in stems and label.name != _CLASSES and label.name[0] != '.':
                detail = f'no image of this name in {", ".join(map(str, sorted(folders)))}'
                yield Mistake(from_here(label, folder), 'image missing', None, label.stem, detail)
