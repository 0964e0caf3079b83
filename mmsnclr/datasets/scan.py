"""Finds the images that cannot be used before training does."""

import csv
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine import fileio
from PIL import Image, ImageChops

from ..console import say, track
from .decoding import (
    deep_values,
    describe,
    has_undeclared_band,
    open_image,
    to_rgb,
    value_range,
)
from .listing import list_images, read_labels
from .near_duplicates import EDGE, Fingerprints, groups_of, look_of

# Images that are handed to the threads at once; bounds the memory of what waits.
_CHUNK = 1024
_CONTRAST = 8  # of 256 levels of grey, with which there is nothing to be seen
_GRAY = 2  # levels by which the channels of an image without colours differ at most, by rounding
_BANDS = 277  # the tag of TIFF
FINGERPRINTS = 'fingerprints.npz'  # beside a list of images, in its order
# What a scan writes, beside its fingerprints.
LISTS = ('images.txt', 'left_out.csv', 'labels.csv', 'near_duplicates.csv')
DUPLICATE = 'duplicate of '  # before the path of the image that is kept


@dataclass
class Scan:
    """What a scan of images found.

    Attributes:
        accepted: The usable images, in the order in which they were given.
        left_out: The others, each with its reason.
        edges: Shorter edge of each accepted image, in pixels.
        prints: Of each accepted image, content and look in 16 bytes.
        levels: Lowest and highest value of the accepted images with more than 8 bits;
            ``None`` if there are none.
        colored: How many of the accepted images have colours.
    """

    accepted: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    edges: list[int] = field(default_factory=list)
    prints: list[bytes] = field(default_factory=list)
    levels: tuple[int, int] | None = None
    colored: int = 0

    @property
    def median_edge(self) -> int:
        """Shorter edge of a typical image, in pixels; 0 if there is none."""
        return sorted(self.edges)[len(self.edges) // 2] if self.edges else 0

    @property
    def reasons(self) -> str:
        """Why images were left out, each reason with their number, as the end of a sentence."""
        kinds = Counter(reason.split(':')[0].split(' of ')[0] for _, reason in self.left_out)
        advice = {'tiny': ' (lower --min-edge to use them)'}
        counts = [f'{n:,} {kind}{advice.get(kind, "")}' for kind, n in kinds.most_common()]
        return f': {", ".join(counts)}' if counts else ''


class _Found(NamedTuple):
    """What is known of an image that was read.

    Attributes:
        problem: Why it cannot be used, else empty.
        digest: Of the file.
        edge: The shorter one, in pixels.
        values: See :func:`~mmsnclr.datasets.decoding.value_range`.
        unseen: What is in the file and not looked at, else empty.
        look: See :func:`~.near_duplicates.look_of`; 0 of an image almost of one grey.
        colored: Whether it has colours.
    """

    problem: str
    digest: bytes = b''
    edge: int = 0
    values: tuple[int, int] | None = None
    unseen: str = ''
    look: int = 0
    colored: bool = False

    @property
    def prints(self) -> bytes:
        """Content and look, as in :class:`~.near_duplicates.Fingerprints`, 8 bytes each."""
        return self.digest[:8].rjust(8, b'\0') + self.look.to_bytes(8, 'big')


def scan_images(paths: Sequence[Path], min_edge: int = 32) -> Scan:
    """Read every image once and leave out those that cannot be used.

    Unreadable, truncated and tiny ones, and those without contrast, are left out, and all but
    the first of those whose files are equal. The console tells what of the files is not looked
    at.

    Args:
        paths: Image files.
        min_edge: Shorter edge below which an image is tiny, in pixels.

    Returns:
        The usable images and the others.
    """
    scan = Scan()
    first: dict[bytes, Path] = {}
    deep: dict[Path, _Found] = {}
    unseen: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter('always')
        for found, path in zip(_examine_all(paths, 'Scanning'), paths):
            problem = _name_problem(path) or found.problem
            if not problem and found.edge < min_edge:
                problem = f'tiny: its shorter edge is {found.edge} pixels, less than {min_edge}'
            if not problem and found.digest in first:
                problem = f'{DUPLICATE}{first[found.digest]}'
            if problem:
                scan.left_out.append((path, problem))
                continue
            first[found.digest] = path
            scan.accepted.append(path)
            scan.edges.append(found.edge)
            scan.prints.append(found.prints)
            scan.colored += found.colored
            unseen[found.unseen] += 1
            if found.values:
                deep[path] = found
    if deep:
        _level(scan, deep)
    for what, count in unseen.items():
        if what:
            say(f'{count:,} images {what}', err=True)
    if warned:
        say(f'{len(warned):,} warnings of decoders, the first: {warned[0].message}', err=True)
    return scan


def fingerprint_images(paths: Sequence[Path]) -> Fingerprints:
    """Read every image once, as :func:`scan_images`; what cannot be read has 0 as its prints."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return _arrays([found.prints for found in _examine_all(paths, 'Comparing images')])


def _arrays(prints: Sequence[bytes]) -> Fingerprints:
    values = np.frombuffer(b''.join(prints), '>u8').reshape(-1, 2)
    return Fingerprints(*values.T.astype(np.uint64, order='C'))


def _examine_all(paths: Sequence[Path], label: str) -> Iterator[_Found]:
    """Read images by several threads, with a progress bar; what is known of each, in order."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        chunks = (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))
        examined = chain.from_iterable(pool.map(_examine, chunk) for chunk in chunks)
        yield from track(examined, label, len(paths))


def _level(scan: Scan, deep: dict[Path, _Found]) -> None:
    """Set the levels, and leave out the images that are almost of one grey by them."""
    ranges = {path: found.values for path, found in deep.items() if found.values}
    low, high = min(low for low, _ in ranges.values()), max(high for _, high in ranges.values())
    flat = {
        path: f'without contrast: from {lowest} to {highest} in a set from {low} to {high}'
        for path, (lowest, highest) in ranges.items()
        if (highest - lowest) * 256 < _CONTRAST * (high - low + 1)
    }
    if len(flat) < len(deep):
        scan.levels = low, high
        say(
            f'{len(deep):,} images have more than 8 bits: their values from {low:,} to {high:,} '
            'become black to white'
        )
    if flat:
        kept = [n for n, path in enumerate(scan.accepted) if path not in flat]
        scan.accepted = [scan.accepted[n] for n in kept]
        scan.edges = [scan.edges[n] for n in kept]
        scan.prints = [scan.prints[n] for n in kept]
        scan.colored -= sum(deep[path].colored for path in flat)
        scan.left_out += flat.items()


def _name_problem(path: Path) -> str:
    """Why a list of paths, a line each, cannot hold this one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return 'name: not UTF-8'
    return 'name: has a line break' if len(str(path).splitlines()) > 1 else ''


def _examine(path: Path) -> _Found:
    """Read an image file to its end."""
    data = b''
    try:
        data = fileio.get(path)
        try:
            # A JPEG file is then read to its end, but decoded at down to an eighth of its size.
            found = _look(data, draft=True)
        except Exception:  # lossless JPEG has no reduced size
            found = None
        if found is None or found.problem:  # fine texture has no contrast at an eighth
            found = _look(data, draft=False)
    # Pillow's decoders raise whatever a damaged file leads them into.
    except Exception as error:
        reason = describe(error, data)
        if reason == 'empty file':
            return _Found('empty: the file has no content')
        cut = 'truncated' in reason.lower()
        return _Found(f'{"truncated" if cut else "unreadable"}: {reason}')
    return found._replace(digest=blake2b(data, digest_size=16).digest())


def _look(data: bytes, draft: bool) -> _Found:
    with open_image(data) as image:
        edge, unseen = min(image.size), _unseen(image)
        if draft:
            image.draft('RGB', (EDGE, EDGE))
        deep = deep_values(image, data)
        values = value_range(deep)
        rgb = to_rgb(image, deep, values)  # that of the set is not known yet
    lows_and_highs: Any = rgb.getextrema()
    levels = max(high - low for low, high in lows_and_highs) + 1
    look = look_of(rgb) if levels > _CONTRAST else 0
    # More than 8 bits are judged by the range of the set.
    flat = levels <= _CONTRAST and values is None
    problem = f'without contrast: no more than {levels} levels of grey' if flat else ''
    return _Found(problem, b'', edge, values, unseen, look, _has_colors(rgb))


def _has_colors(image: Image.Image) -> bool:
    """Whether the channels of an RGB image differ."""
    red, green, blue = image.split()
    differences: Any = [ImageChops.difference(green, other).getextrema() for other in (red, blue)]
    return any(largest > _GRAY for _, largest in differences)


def _unseen(image: Any) -> str:
    """What of an image file is not looked at, in words."""
    if image.format != 'MPO' and getattr(image, 'is_animated', False):
        return 'hold several pages or frames, of which the first is used'
    if has_undeclared_band(image):
        return 'have a fourth band that is not said to be transparency and is not looked at'
    if image.format == 'TIFF':
        bands = image.tag_v2.get(_BANDS, 1)
        if image.mode == 'RGBA':
            return 'are TIFF files whose fourth band is taken as transparency, as they say'
        if bands > len(image.getbands()):
            return 'have bands beyond the third that are not looked at'
    return ''


def scan_into(
    folder: Path,
    images: Sequence[str | Path],
    labels: str | Path | None,
    image_root: str | Path | None,
    min_edge: int,
) -> Scan:
    """Scan images, tell of them, and write lists of them into a folder.

    Args:
        folder: Where ``images.txt``, ``left_out.csv`` and ``labels.csv`` go, and
            ``near_duplicates.csv``, which lists images that look almost the same, group by group;
            none of these is left out.
        images: As for :func:`~mmsnclr.datasets.listing.list_images`.
        labels: As for :func:`~mmsnclr.datasets.listing.read_labels`.
        image_root: Folder from which paths in files are meant.
        min_edge: Images with a shorter edge are left out, in pixels.

    Raises:
        FileNotFoundError: If an image is missing.
        ValueError: If none is usable, or labels are missing.
    """
    paths = list_images(images, image_root)
    names = [] if labels is None else read_labels(labels, paths, image_root)
    label_of = dict(zip(paths, names))
    return scan_listed(folder, paths, label_of, min_edge)


def scan_listed(
    folder: Path, paths: Sequence[Path], label_of: dict[Path, str], min_edge: int
) -> Scan:
    """Do as :func:`scan_into` with images and labels that were listed; no labels for none."""
    say(f'{len(paths):,} images found')
    scan = scan_images(paths, min_edge)
    (folder / 'images.txt').write_text(''.join(f'{path}\n' for path in scan.accepted), 'utf-8')
    write_csv(folder / 'left_out.csv', ('path', 'reason'), scan.left_out)
    if label_of:
        rows = [(path, label_of[path]) for path in scan.accepted]
        write_csv(folder / 'labels.csv', ('path', 'label'), rows)
    left_out = f'{len(scan.left_out):,} left out{scan.reasons}, see {folder / "left_out.csv"}'
    say(f'{len(scan.accepted):,} are usable, {left_out}')
    if not scan.accepted:
        raise ValueError(f'none of the {len(paths):,} images is usable{scan.reasons}')
    _list_near_duplicates(folder, scan)
    return scan


def _list_near_duplicates(folder: Path, scan: Scan) -> None:
    """Write fingerprints and groups of near-duplicates, and tell how many there are."""
    prints, listed = _arrays(scan.prints), folder / 'near_duplicates.csv'
    prints.write(folder / FINGERPRINTS)
    groups = groups_of(prints.look)
    rows = [(n, scan.accepted[i]) for n, group in enumerate(groups, 1) for i in group]
    write_csv(listed, ('group', 'path'), rows)
    if rows:
        say(f'{len(rows):,} look almost like another, in {len(groups):,} groups, see {listed}')


def tell_of_unreadable(out: Path, unreadable: Sequence[tuple[Path, str]], count: int) -> None:
    """List the images that a prediction has left out, in ``left_out.csv``, and say so.

    Args:
        out: Folder of the list.
        unreadable: Images that could not be read, each with its reason.
        count: Number of all images.

    Raises:
        ValueError: If none could be read.
    """
    if not unreadable:
        return
    if len(unreadable) == count:
        raise ValueError(
            f'none of the {count} images can be read, the first {str(unreadable[0][0])!r}: '
            f'{unreadable[0][1]}'
        )
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / 'left_out.csv', ('path', 'reason'), unreadable)
    names = ', '.join(str(path) for path, _ in unreadable[:5])
    say(
        f'{len(unreadable)} of {count} images cannot be read and were left out, see '
        f'{out / "left_out.csv"}: {names}'
    )


def write_csv(path: str | Path, header: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a table in UTF-8 with a heading."""
    # Names of files need not be UTF-8.
    with open(path, 'w', newline='', encoding='utf-8', errors='backslashreplace') as file:
        csv.writer(file).writerows(chain([header], rows))
