"""Images of COCO files: where they are, and how large."""

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from .decoding import deep_values, describe, open_image, to_rgb, value_range


class ImageFolder:
    """A folder that file names start from.

    Args:
        path: Its absolute path.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> tuple[str | None, str]:
        """Find the file that a file name means.

        Args:
            name: May have backslashes, be an absolute path of another machine,
                start with the folder's own name, or be spelt in another form of
                Unicode or case.

        Returns:
            Its name from the folder, ``None`` if there is none; and what is
            special about the given name.
        """
        path = os.path.normpath(os.path.join(self.path, name))
        if os.path.commonpath([self.path, path]) == self.path and os.path.isfile(path):
            return name, ''
        absolute = re.match(r'[A-Za-z]:[\\/]|[\\/]', name)
        whys = ['it is an absolute path'] if absolute else []
        whys += ['it has backslashes'] if '\\' in name else []
        parts = [part for part in re.split(r'[\\/]+', name) if part not in ('', '.')]
        starts = range(len(parts) if absolute else 1)
        if not absolute and parts[:1] == [os.path.basename(self.path)]:
            starts = range(2)
        found = next(filter(None, (self._spelt(parts[start:]) for start in starts)), None)
        if found and not whys:
            whys = ['it is spelt otherwise than the file']
        return found, ' and '.join(whys)

    def _spelt(self, parts: list[str]) -> str | None:
        """The file whose path is alike but for Unicode's forms and case."""
        path = self.path
        for part in parts:
            names = self._names(path).get(_folded(part), []) if part != '..' else []
            if part not in names and len(names) != 1:
                return None
            path = os.path.join(path, part if part in names else names[0])
        return os.path.relpath(path, self.path) if os.path.isfile(path) else None

    def _names(self, folder: str) -> dict[str, list[str]]:
        """What a folder holds, by the names' common form."""
        if folder not in self._listings:
            names: dict[str, list[str]] = defaultdict(list)
            self._listings[folder] = names
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                names[_folded(name)].append(name)
        return self._listings[folder]


def _folded(name: str) -> str:
    return unicodedata.normalize('NFC', name).casefold()


class Looked(NamedTuple):
    """What is known of an image that was read to its end.

    Attributes:
        size: Width and height of the upright image.
        values: See :func:`~mmsnclr.datasets.decoding.value_range`.
    """

    size: tuple[int, int]
    values: tuple[int, int] | None


def look(path: str) -> Looked | str:
    """Read an image, or tell why it cannot be used."""
    data = b''
    try:
        data = Path(path).read_bytes()
        with open_image(data) as image:
            deep = deep_values(image, data)
            return Looked(to_rgb(image, deep).size, value_range(deep))
    # Pillow's decoders raise whatever a damaged file leads them into.
    except Exception as error:
        return f'{path} cannot be decoded: {describe(error, data)}'
