"""Sets whose labels are a file for each image, in COCO's words."""

import os
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from .coco_check import Mistake
from .decoding import SUFFIXES, open_image, orientation
from .lists import tell_of_unread


class LabelFiles(NamedTuple):
    """What label files say, to be checked as a COCO-format set.

    Attributes:
        content: ``images``, ``annotations`` and ``categories``; the id of an annotation is its
            place in its label file.
        images: Folder that file names start from.
        origins: Label file of each image, or the image itself if it has none, by its file name.
        mistakes: What cannot be said in COCO's words, and is left out of the content.
    """

    content: dict
    images: Path
    origins: dict[str, str]
    mistakes: list[Mistake]


def find_images(folder: Path) -> list[Path]:
    """Image files in a folder and below it, sorted."""
    return find_files(folder, SUFFIXES)


def find_files(folder: Path, suffixes: Container[str]) -> list[Path]:
    """Files of these suffixes in a folder and below it, sorted, without hidden ones as macOS's.

    Among them are links to nowhere, but no folders, pipes or devices. Linked folders are looked
    into, none twice; those that cannot be read are said.
    """
    found: list[Path] = []
    unread: list[OSError] = []
    tops, visited = [str(folder)], set()
    for top in tops:  # links come after all folders, by whose own names labels are found
        for place, folders, names in os.walk(top, onerror=unread.append):
            real = os.path.realpath(place)
            folders[:] = [name for name in folders if name[0] != '.' and real not in visited]
            tops += filter(os.path.islink, (os.path.join(place, name) for name in folders))
            if real not in visited:
                found += [Path(place, name) for name in names if name[0] != '.']
            visited.add(real)
    tell_of_unread(unread)
    found = [path for path in found if path.suffix.lower() in suffixes]
    return sorted(path for path in found if os.path.isfile(path) or not os.path.exists(path))


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of an image that lies upright, 1 and 1 if it cannot be read."""
    if not path.is_file():
        return 1, 1
    try:
        with open_image(path.read_bytes()) as image:
            width, height = image.size
            return (height, width) if orientation(image) >= 5 else (width, height)
    except (OSError, ValueError):  # the check of the set tells why
        return 1, 1


def from_here(path: Path, folder: Path) -> str:
    """A path as it is shown: from a folder."""
    return os.path.relpath(path, folder)
