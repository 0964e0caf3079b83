"""Texts and COCO files that list images, and where these are."""

import csv
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from io import StringIO
from pathlib import Path

from ..console import say
from .coco import read_lists
from .coco_images import ImageFolder
from .decoding import SUFFIXES
from .shards import load_shard, place_in_tar

_BYTE_ORDERS = (b'\xff\xfe', b'\xfe\xff')  # what a text in UTF-16 starts with
_LONGEST_LINE = 4096  # of Linux's paths


class Files:
    """Which files there are, also in tars: each folder is listed once, no file asked for."""

    def __init__(self) -> None:
        self._folders: dict[str, Callable[[str], bool]] = {}
        self._load_shard = cache(load_shard)

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = self._names(folder)
        return self._folders[folder](name) or os.path.isfile(path)

    def _names(self, folder: str) -> Callable[[str], bool]:
        """What tells whether there is a file of a name in a folder."""
        place = place_in_tar(f'{folder}/')
        if place is not None:
            shard = self._load_shard(place[0])
            return lambda name: shard.find(place[1] + name) is not None
        with suppress(OSError, ValueError):
            names = {entry.name for entry in os.scandir(folder or '.') if entry.is_file()}
            return names.__contains__
        return lambda name: False


def tell_of_unread(errors: Sequence[OSError]) -> None:
    """Say which folders could not be listed, by the error of each."""
    if errors:
        say(f'{len(errors):,} folders cannot be read, the first: {errors[0]}', err=True)


def read_text(path: str | Path) -> str:
    """Read a text in UTF-8 or UTF-16, as Windows writes them, too.

    Raises:
        ValueError: If it is in another encoding, or no text.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode('utf-16' if data[:2] in _BYTE_ORDERS else 'utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} must be a text in UTF-8: {error}') from error
    if '\0' in text:
        raise ValueError(f'{path} must be a text in UTF-8: it has zero bytes')
    return text


def parse_table(text: str) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Columns and rows of a table, parted by comma, semicolon or tab."""
    delimiter = max(',;\t', key=text.partition('\n')[0].count)
    lines = csv.reader(StringIO(text, newline=''), delimiter=delimiter, skipinitialspace=True)
    columns = [name.strip() for name in next(lines, ())]
    return columns, (dict(zip(columns, map(str.strip, line))) for line in lines)


def listed_images(source: Path, image_root: str | Path | None) -> list[Path]:
    """Images that a text or a COCO file lists.

    Args:
        source: The file.
        image_root: Folder from which its paths are meant; by default its own.

    Raises:
        FileNotFoundError: If an image is missing.
        ValueError: If the file is neither of both.
    """
    root, names = Path(image_root or source.parent), _read_names(source)
    if len(names) > 1 and _is_heading(*names[:2]) and _locate(Files(), root, names[0]) is None:
        del names[0]
    paths = locate(source, root, names)
    missing = [root / name for name, path in zip(names, paths) if path is None]
    if missing:
        advice = 'pass the folder that its paths start from as --image-root'
        if image_root is not None:
            advice = f'are its paths meant from --image-root {root}?'
        raise FileNotFoundError(
            f'{source} lists {len(paths)} images, of which {len(missing)} are missing, the first '
            f'{str(missing[0])!r}: {advice} (a line is a path, "path label" or "path,label")'
        )
    return list(filter(None, paths))


def locate(source: str | Path, root: Path, names: list[str]) -> list[Path | None]:
    """Find the images that a file lists, and say which it spells otherwise.

    Args:
        source: The file, as it is named.
        root: Folder from which its paths are meant.
        names: Its paths, which may be of another machine, or lines that begin with one.

    Returns:
        The path of each, ``None`` for those that are not there.
    """
    files, folder, others = Files(), ImageFolder(os.path.abspath(root)), {}
    paths = [_locate(files, root, name) for name in names]
    for place, path in enumerate(paths):
        found = folder.find(names[place])[0] if path is None else None
        if found is not None:
            others[place] = root / found
    if others:
        place, path = next(iter(others.items()))
        say(
            f'{source}: {len(others):,} of {len(paths):,} paths are spelt otherwise than the files '
            f'in {root}: {names[place]!r} is taken as {str(path)!r}',
            err=True,
        )
    return [others.get(place, path) for place, path in enumerate(paths)]


def _read_names(source: Path) -> list[str]:
    """The names in a COCO file or in the column ``path`` of a csv, or the lines of a text."""
    if source.suffix.lower() == '.json':
        names = [image.get('file_name') for image in read_lists(source, ('images',))['images']]
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"{source} is not in COCO's format: an image needs a 'file_name'")
        return names
    try:
        text = read_text(source)
    except ValueError as error:
        kinds = ' '.join(sorted(SUFFIXES))
        raise ValueError(f'{source} is neither a text nor one of {kinds}: {error}') from error
    if text.startswith('#!'):
        raise ValueError(f'{source} is a script, neither a list of images nor one of them')
    if source.suffix.lower() == '.csv':
        columns, rows = parse_table(text)
        if 'path' in columns:
            return [path for row in rows if (path := row.get('path'))]
    return [line.strip() for line in text.splitlines() if line.strip()]


def _locate(files: Files, root: Path, line: str) -> Path | None:
    """The image that a line names, alone or before a label, quoted, or with backslashes."""
    paths = (root / name for name in _readings(line))
    return next((path for path in paths if str(path) in files), None)


def _readings(line: str) -> Iterator[str]:
    """What a line may mean, from the most to the least literal."""
    yield line
    if len(line) > _LONGEST_LINE:
        return
    slashed = line.replace('\\', '/')
    accents = (unicodedata.normalize(form, slashed) for form in ('NFC', 'NFD'))  # macOS writes NFD
    for text in dict.fromkeys((line, slashed, *accents)):
        for separator in (',', ';', '\t', ' '):
            parts = text.split(separator)
            for end in range(len(parts), 0, -1):
                yield separator.join(parts[:end]).strip().strip('\'"')


def _is_heading(line: str, next_line: str) -> bool:
    """Whether a line names columns, as the next one names an image."""
    names_image = [
        any(Path(name).suffix.lower() in SUFFIXES for name in _readings(text))
        for text in (line, next_line)
    ]
    return names_image == [False, True]
