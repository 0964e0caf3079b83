"""Images that a user names, and their labels."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from ..console import say

# fmt: off
SUFFIXES = frozenset([
    '.avif', '.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.ppm', '.tif',
    '.tiff', '.webp',
])
# fmt: on


def list_images(
    sources: str | Path | Sequence[str | Path], image_root: str | Path | None = None
) -> list[Path]:
    """Collect the images of folders, lists and COCO files, each once.

    Says on the console which other kinds of files a folder holds.

    Args:
        sources: One or more: folders, searched recursively; ``.json`` files in COCO's
            format; image files; any other file is a text with a path per line.
        image_root: Folder from which paths in text and json files are meant;
            by default the folder of the file.

    Returns:
        Absolute paths; those of a folder are sorted.

    Raises:
        FileNotFoundError: If a source, or an image that a file lists, is not
            there.
        ValueError: If a json file is not in COCO's format, or no image is
            found.
    """
    paths: dict[Path, None] = {}
    others = Counter()
    if isinstance(sources, str | Path):
        sources = [sources]
    for source in map(Path, sources):
        if source.is_dir():
            files = sorted(_walk(source))
            found = [path for path in files if path.suffix.lower() in SUFFIXES]
            kinds = (path.suffix.lower() for path in files)
            others.update(kind for kind in kinds if kind not in SUFFIXES)
        elif not source.is_file():
            raise FileNotFoundError(f'there is no folder or file {str(source)!r}')
        elif source.suffix.lower() in SUFFIXES:
            found = [source]
        else:
            found = _listed(source, Path(image_root or source.parent))
        paths |= dict.fromkeys(Path(os.path.abspath(path)) for path in found)
    kinds = ', '.join(
        f'{count:,} {suffix or "without suffix"}' for suffix, count in others.most_common(5)
    )
    if not paths:
        raise ValueError(
            f'no images in {", ".join(map(str, sources))}: looked for {" ".join(sorted(SUFFIXES))}'
            + (f', found {kinds}; convert these to one of them' if kinds else '')
        )
    if kinds:
        say(f'{others.total():,} files of other kinds are not looked at: {kinds}', err=True)
    return list(paths)


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder; links are followed, but into no folder twice."""
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in folders
            if not name.startswith('.')
            and os.path.realpath(os.path.join(parent, name)) not in visited
        ]
        for name in names:
            if not name.startswith('.'):
                yield Path(parent, name)


def _listed(source: Path, root: Path) -> list[Path]:
    """Images that a text or a COCO file lists."""
    try:
        text = source.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{source} is neither a text nor one of {" ".join(sorted(SUFFIXES))}'
        ) from error
    if source.suffix.lower() == '.json':
        try:
            names = [image['file_name'] for image in json.loads(text)['images']]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{source} is not in COCO's format, a list 'images' whose entries have a "
                f"'file_name': {error!r}"
            ) from error
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    paths = [root / name for name in names]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f'{source} lists {len(paths)} images, of which {len(missing)} are missing, the first '
            f'{str(missing[0])!r}: pass the folder that its paths start from as --image-root'
        )
    return paths


def read_labels(
    source: str | Path | None, images: Sequence[Path], root: str | Path | None = None
) -> list[str] | None:
    """Read labels for evaluation.

    Args:
        source: ``'folders'`` for the names of the images' folders, or a csv
            file with the columns ``path`` and ``label``; ``None`` for none.
        images: Absolute paths.
        root: Folder from which the paths in the csv are meant; by default its
            own.

    Returns:
        One label for each image, or ``None``.

    Raises:
        FileNotFoundError: If there is no such csv file.
        ValueError: If the csv lacks a column, or an image a label.
    """
    if source is None:
        return None
    if source == 'folders':
        return [path.parent.name for path in images]
    if not Path(source).is_file():
        raise FileNotFoundError(f"labels={str(source)!r} is neither a csv file nor 'folders'")
    root = os.path.abspath(root or Path(source).parent)
    with open(source, newline='', encoding='utf-8-sig') as file:
        rows = csv.DictReader(_decoded(file, source))
        if not {'path', 'label'} <= set(rows.fieldnames or ()):
            raise ValueError(f"{source} must have the columns 'path' and 'label' in its first line")
        labels = {os.path.normpath(os.path.join(root, row['path'])): row['label'] for row in rows}
    missing = [path for path in images if not labels.get(str(path))]
    if missing:
        raise ValueError(
            f'{source} has no label for {len(missing)} of the {len(images)} images, such as '
            f'{str(missing[0])!r}; its paths are meant from {root}'
        )
    return [labels[str(path)] for path in images]


def _decoded(file: TextIO, source: str | Path) -> Iterator[str]:
    """The lines of a file, which it names if they are not UTF-8."""
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f'{source} must be a text in UTF-8: {error}') from error
