"""Finds the images that a user means, and those among them that can be used."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from itertools import chain
from pathlib import Path

import click
from PIL import Image

from .loading import to_rgb

# fmt: off
SUFFIXES = frozenset([
    '.avif', '.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.ppm', '.tif',
    '.tiff', '.webp',
])
# fmt: on
# Images that are handed to the threads at once; bounds the memory of what waits.
_CHUNK = 1024


@dataclass
class Scan:
    """What a scan of images found.

    Attributes:
        accepted: The usable images, in the order in which they were given.
        left_out: The others, each with its reason.
        edges: Shorter edge of each accepted image, in pixels.
    """

    accepted: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    edges: list[int] = field(default_factory=list)


def find_images(sources: Sequence[str | Path], image_root: str | Path | None = None) -> list[Path]:
    """Collect the images of folders, lists and COCO files, each once.

    Args:
        sources: Folders, searched recursively; ``.json`` files in COCO's
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
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(_walk(source))
        elif not source.is_file():
            raise FileNotFoundError(f'there is no folder or file {str(source)!r}')
        elif source.suffix.lower() in SUFFIXES:
            found = [source]
        else:
            found = _listed(source, Path(image_root or source.parent))
        paths |= dict.fromkeys(Path(os.path.abspath(path)) for path in found)
    if not paths:
        raise ValueError(
            f'no images in {", ".join(map(str, sources))}: looked for {" ".join(sorted(SUFFIXES))}'
        )
    return list(paths)


def _walk(folder: Path) -> Iterator[Path]:
    """Images below a folder; links are followed, but into no folder twice."""
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
            if not name.startswith('.') and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(parent, name)


def _listed(source: Path, root: Path) -> list[Path]:
    """Images that a text or a COCO file lists."""
    text = source.read_text()
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


def scan_images(paths: Sequence[Path], min_edge: int = 32, workers: int | None = None) -> Scan:
    """Read every image once and leave out those that cannot be used.

    Unreadable, truncated and tiny ones are left out, and all but the first of
    those whose files are equal.

    Args:
        paths: Image files.
        min_edge: Shorter edge below which an image is tiny, in pixels.
        workers: Number of threads; by default one for each core.

    Returns:
        The usable images and the others.
    """
    scan, first = Scan(), {}
    workers = workers or len(os.sched_getaffinity(0))
    with (
        ThreadPoolExecutor(workers) as pool,
        click.progressbar(length=len(paths), label='Scanning', show_pos=True) as progress,
    ):
        chunks = (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))
        examined = chain.from_iterable(pool.map(_examine, chunk) for chunk in chunks)
        for path, (digest, edge, problem) in zip(paths, examined):
            progress.update(1)
            if not problem and edge < min_edge:
                problem = f'tiny: its shorter edge is {edge} pixels, less than {min_edge}'
            if not problem and digest in first:
                problem = f'duplicate of {first[digest]}'
            if problem:
                scan.left_out.append((path, problem))
            else:
                first[digest] = path
                scan.accepted.append(path)
                scan.edges.append(edge)
    return scan


def _examine(path: Path) -> tuple[bytes, int, str]:
    """Digest and shorter edge of an image file, and what is wrong with it."""
    try:
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as image:
            edge = min(image.size)
            # A JPEG file is then read to its end, but decoded at an eighth of its size.
            image.draft('RGB', (1, 1))
            to_rgb(image)
    # Pillow's decoders raise whatever a damaged file leads them into.
    except Exception as error:
        cut = 'truncated' in str(error)
        return b'', 0, f'{"truncated" if cut else "unreadable"}: {error}'
    return blake2b(data, digest_size=16).digest(), edge, ''
