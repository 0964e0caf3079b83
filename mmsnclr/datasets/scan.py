"""Finds the images that cannot be used before training does."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from itertools import chain
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..console import track
from .decoding import to_rgb

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

    @property
    def median_edge(self) -> int:
        """Shorter edge of a typical image, in pixels; 0 if there is none."""
        return sorted(self.edges)[len(self.edges) // 2] if self.edges else 0


def scan_images(paths: Sequence[Path], min_edge: int = 32) -> Scan:
    """Read every image once and leave out those that cannot be used.

    Unreadable, truncated and tiny ones are left out, and all but the first of
    those whose files are equal.

    Args:
        paths: Image files.
        min_edge: Shorter edge below which an image is tiny, in pixels.

    Returns:
        The usable images and the others.
    """
    scan, first = Scan(), {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        chunks = (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))
        examined = chain.from_iterable(pool.map(_examine, chunk) for chunk in chunks)
        for path, found in track(zip(paths, examined), 'Scanning', len(paths)):
            digest, edge, problem = found
            problem = _name_problem(path) or problem
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


def _name_problem(path: Path) -> str:
    """Why a list of paths, a line each, cannot hold this one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return 'name: not UTF-8'
    return 'name: has a line break' if len(str(path).splitlines()) > 1 else ''


def _examine(path: Path) -> tuple[bytes, int, str]:
    """Digest and shorter edge of an image file, and what is wrong with it."""
    try:
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as image:
            edge = min(image.size)
            # A JPEG file is then read to its end, but decoded at an eighth of its size.
            image.draft('RGB', (1, 1))
            to_rgb(image)
    except UnidentifiedImageError:
        return b'', 0, 'unreadable: not an image of a known kind'
    # Pillow's decoders raise whatever a damaged file leads them into.
    except Exception as error:
        cut = 'truncated' in str(error)
        return b'', 0, f'{"truncated" if cut else "unreadable"}: {error}'
    return blake2b(data, digest_size=16).digest(), edge, ''
