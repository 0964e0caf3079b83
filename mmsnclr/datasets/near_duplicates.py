"""Images that look almost the same, by their perceptual hashes."""

import zipfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

EDGE = 64  # to which an image may be reduced before it is hashed, in pixels
_DISTANCE = 4  # of 64 bits, up to which two images are near-duplicates
_BANDS = np.linspace(0, 64, _DISTANCE + 2).round().astype(int)
_MOST = 2**22  # pairs that are compared, or handed out, at once; bounds the memory


class Fingerprints(NamedTuple):
    """What is kept of images to find them again.

    Attributes:
        content: Of the file's bytes; 0 of what could not be read, ``(N,)`` uint64.
        look: See :func:`look_of`; 0 of an image that has none, ``(N,)`` uint64.
    """

    content: np.ndarray
    look: np.ndarray

    def take(self, numbers: Sequence[int]) -> 'Fingerprints':
        """Those of some of the images."""
        return Fingerprints(self.content[numbers], self.look[numbers])

    def write(self, path: Path) -> None:
        """Write them, 16 bytes an image."""
        np.savez(path, **self._asdict())

    @classmethod
    def read(cls, path: Path) -> 'Fingerprints | None':
        """Read what was written; ``None`` if there is no such file, or it is damaged."""
        try:
            with np.load(path) as file:
                return cls(file['content'], file['look'])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def look_of(image: Image.Image) -> int:
    """Perceptual hash of an image, by the signs of its 64 lowest frequencies of grey.

    That of a resized, recompressed or brighter copy differs in few bits, that of a mirrored,
    turned or well cropped one in many.

    Args:
        image: In mode ``RGB``, at its size or reduced to :data:`EDGE` or more.

    Returns:
        64 bits.
    """
    return int(str(imagehash.phash(image)), 16)


def near_pairs(one: np.ndarray, other: np.ndarray) -> Iterator[np.ndarray]:
    """Which images of two sets are near-duplicates.

    Looks that differ in no more than 4 of 64 bits agree in at least one of five bands of bits, so
    that only those of a band are compared.

    Args:
        one: Looks, ``(N,)`` uint64; those of 0 are near nothing.
        other: Likewise, ``(M,)``.

    Yields:
        Numbers in ``one`` and in ``other``, ``(2, P)``, of some of the pairs; a pair may come
        again. Sets of one scene have too many pairs to be kept at once.
    """
    for low, high in pairwise(_BANDS):
        found, count = [], 0
        groups = [_by_band(looks, low, high - low) for looks in (one, other)]
        (order, starts), (other_order, other_starts) = groups
        for key in np.flatnonzero((np.diff(starts) > 0) & (np.diff(other_starts) > 0)):
            rows = order[starts[key] : starts[key + 1]]
            columns = other_order[other_starts[key] : other_starts[key + 1]]
            signs = _signs(other[columns]).T
            for part in np.array_split(rows, -(-len(rows) * len(columns) // _MOST)):
                near = np.nonzero(_signs(one[part]) @ signs >= 64 - 2 * _DISTANCE)
                found.append(np.stack([part[near[0]], columns[near[1]]]))
                count += len(near[0])
                if count > _MOST:
                    yield np.concatenate(found, axis=1)
                    found, count = [], 0
        if found:
            yield np.concatenate(found, axis=1)


def _by_band(looks: np.ndarray, low: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of looks, sorted by some of their bits, and where those of each value start."""
    numbers = looks.nonzero()[0]
    keys = looks[numbers] >> np.uint64(low) & np.uint64(2**width - 1)
    order = np.argsort(keys, kind='stable')
    starts = np.searchsorted(keys[order], np.arange(2**width + 1, dtype=np.uint64))
    return numbers[order], starts


def _signs(looks: np.ndarray) -> np.ndarray:
    """Bits as 1 and -1, whose products count in how many two looks agree."""
    bits = np.unpackbits(looks[:, None].view(np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def groups_of(looks: np.ndarray) -> list[np.ndarray]:
    """Groups of near-duplicates within a set, each linked to one or more of its group.

    Args:
        looks: ``(N,)`` uint64.

    Returns:
        The numbers of each group of two or more, sorted.
    """
    values, which = np.unique(looks, return_inverse=True)
    group = np.arange(len(values))
    for pairs in near_pairs(values, values):
        one, other = group[pairs]
        apart = one != other
        ends = one[apart], other[apart]
        links = coo_array((np.ones(apart.sum()), ends), shape=(len(values),) * 2)
        group = connected_components(links, directed=False)[1][group]
    group = group[which]
    group[looks == 0] = group.max(initial=0) + 1 + np.arange((looks == 0).sum())
    order = np.argsort(group, kind='stable')
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: part[0])
