"""Tars of images (shards, in the layout of webdataset), read by name like folders.

Python's `tarfile` finds the members once, and the index is kept on the disk. `wids`, the indexed
reader of webdataset's authors, unpickles its index and never sees that a tar has changed.
"""

import os
import re
import tarfile
import tempfile
import weakref
from bisect import bisect_left
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
from mmengine.fileio import LocalBackend, register_backend

from ..console import track
from .decoding import SUFFIXES

_TAR = re.compile(r'\.tar(?=/)', re.IGNORECASE)
_COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')
_COMPRESSED_NAMES = (
    *(f'.tar.{kind}' for kind in ('gz', 'bz2', 'xz', 'zst', 'lz4', 'lzma', 'z')),
    *('.tgz', '.tbz', '.tbz2', '.txz', '.tzst'),
)
_OPEN_FILES = 64  # of each process
_LONGEST_LABEL = 256  # bytes


class Shard(NamedTuple):
    """The images in a tar.

    Attributes:
        path: The tar.
        state: Its size in bytes and the time of its last change, by which an index is told
            from that of an earlier tar.
        images: Of each image ``name``, ``offset`` and ``size`` in bytes and ``label``, the
            content of its ``.cls`` file, else empty; sorted by name.
    """

    path: str
    state: tuple[int, int]
    images: np.ndarray

    @property
    def names(self) -> list[str]:
        """Names of the images, sorted as those of the extracted files."""
        names = map(os.fsdecode, self.images['name'].tolist())
        return sorted(names, key=lambda name: name.split('/'))

    def find(self, name: str) -> np.void | None:
        """What is known of an image, ``None`` if there is none of this name."""
        names, wanted = self.images['name'], os.fsencode(name)
        row = bisect_left(names, wanted)
        return self.images[row] if row < len(names) and names[row] == wanted else None


_shards: dict[str, Shard] = {}  # those of this process, which its workers inherit


def is_shard(path: str) -> bool:
    """Whether a file is a tar by its name.

    Raises:
        ValueError: If it is a compressed one.
    """
    name = path.lower()
    if name.endswith(_COMPRESSED_NAMES):
        raise _compressed(path)
    return name.endswith('.tar')


def place_in_tar(path: str) -> tuple[str, str] | None:
    """The tar (absolute) and the name in it of an image in a tar; ``None`` for any other path."""
    end = _end_of_tar(path)
    return None if end is None else (os.path.abspath(path[:end]), path[end + 1 :])


def _end_of_tar(path: str) -> int | None:
    """Where the path of the tar ends in that of an image in one; folders may be named alike."""
    for found in _TAR.finditer(path):
        tar = path[: found.end()]
        if os.path.abspath(tar) in _shards or os.path.isfile(tar):
            return found.end()
    return None


def extracted_path(path: str) -> str:
    """The path of an image, in a tar or not, after each tar became a folder of its name.

    An image in ``a/b.tar`` then lies in ``a/b/``.
    """
    end = _end_of_tar(path)
    return path if end is None else path[: end - len('.tar')] + path[end:]


def label_of(path: str) -> str:
    """The content of the ``.cls`` file beside an image in a tar; empty if there is none."""
    place = place_in_tar(path)
    image = None if place is None else _shard(place[0]).find(place[1])
    return '' if image is None else image['label'].decode(errors='replace')


def load_shards(paths: Iterable[str]) -> list[Shard]:
    """Index tars, unless it was done before; several at once, as network disks like it.

    Raises:
        FileNotFoundError: If one is not there.
        ValueError: If one is damaged or compressed.
    """
    paths = list(paths)
    if not paths:
        return []
    with ThreadPoolExecutor(min(32, 4 * len(os.sched_getaffinity(0)))) as pool:
        return list(track(pool.map(load_shard, paths), 'Indexing tars', len(paths)))


def load_shard(path: str) -> Shard:
    """Index a tar, unless it was done before and the tar is the same.

    The index is kept in the user's cache, see :func:`cache_folder`.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged or compressed.
    """
    path = os.path.abspath(path)
    state = _state(path)
    shard = _shards.get(path)
    if shard is None or shard.state != state:
        kept = _index_file(path)
        images = _read_index(kept, state)
        shard = Shard(path, state, _index(path) if images is None else images)
        if images is None:
            _write_index(kept, shard)
        _shards[path] = shard
    return shard


def _shard(path: str) -> Shard:
    return _shards.get(path) or load_shard(path)


def _state(file: str | int) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def cache_folder() -> Path:
    """The user's cache: ``mmsnclr`` in ``XDG_CACHE_HOME``, which is ``~/.cache`` by default."""
    return Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'mmsnclr')


def _index_file(path: str) -> Path:
    digest = blake2b(os.fsencode(os.path.abspath(path)), digest_size=16).hexdigest()
    return cache_folder() / 'shards' / f'{digest}.npz'


def _read_index(path: Path, state: tuple[int, int]) -> np.ndarray | None:
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(path) as kept:
        if kept['state'].tolist() == list(state):
            return kept['images']
    return None


def _write_index(path: Path, shard: Shard) -> None:
    with suppress(OSError):  # a cache that cannot be written costs the next start some time
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = os.path.join(folder, path.name)
            np.savez(draft, state=np.array(shard.state), images=shard.images)
            os.replace(draft, path)


def _index(path: str) -> np.ndarray:
    """Find the images in a tar and their labels."""
    images, labels = {}, {}
    with open(path, 'rb') as file:
        if file.read(6).startswith(_COMPRESSED):
            raise _compressed(path)
        file.seek(0)
        try:
            tar: Any
            with tarfile.open(fileobj=file, mode='r:') as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # which would grow
                    name = os.path.normpath(member.name.lstrip('/'))
                    # A link's file is there under its own name.
                    if not member.isreg() or any(part[0] == '.' for part in name.split('/')):
                        continue
                    if os.path.splitext(name)[1].lower() in SUFFIXES:
                        if member.issparse():
                            raise ValueError(f'{member.name} has holes (tar --sparse)')
                        images[name] = member.offset_data, member.size
                    elif _sample(name) + '.cls' == name and member.size <= _LONGEST_LABEL:
                        labels[_sample(name)] = tar.extractfile(member).read().strip()
                _check_end(file, tar.offset)
        except (tarfile.TarError, ValueError, OSError) as error:
            raise ValueError(f'{path} is no whole tar: {error}; copy or make it again') from error
    rows: list[tuple] = [
        (os.fsencode(name), *place, labels.get(_sample(name), b''))
        for name, place in images.items()
    ]
    widths = [max([1, *(len(row[column]) for row in rows)]) for column in (0, 3)]
    kinds = [('name', f'S{widths[0]}'), ('offset', 'i8'), ('size', 'i8')]
    return np.array(sorted(rows), dtype=[*kinds, ('label', f'S{widths[1]}')])


def _check_end(file: BinaryIO, offset: int) -> None:
    """See that a tar ends where tarfile took it to, which also passes over a damaged header."""
    file.seek(offset)
    rest = file.read(2**16)
    if len(rest) < tarfile.BLOCKSIZE:
        raise ValueError('it has no end')
    if rest.strip(b'\0'):
        raise ValueError(f'it is damaged, or another begins, {offset:,} bytes after its start')


def _sample(name: str) -> str:
    """What the files of a sample have in common: all before the first dot of their names."""
    folder, base = os.path.split(name)
    return os.path.join(folder, base.partition('.')[0])


def _compressed(path: str) -> ValueError:
    return ValueError(
        f'{path} is compressed, so that no image in it can be read without all before it: '
        'make it a plain .tar (gunzip, unxz, zstd -d), which for images is hardly larger'
    )


class _File:
    """An open file, closed when it is no longer used."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


@lru_cache(_OPEN_FILES)
def _opened(path: str, state: tuple[int, int]) -> _File:
    return _File(path)


@register_backend('local', prefixes='', force=True)
class FilesAndShards(LocalBackend):
    """mmengine's reader of local files, which reads images in tars as well.

    So do all of the parents' transforms that load images. A process opens a tar when it first
    reads from it, and reads at an offset of its own, whatever processes it was forked from.
    """

    def get(self, filepath: str | Path) -> bytes:
        """Read a file or an image in a tar.

        Raises:
            OSError: If it is not there or cannot be read.
            ValueError: If the tar is damaged or compressed.
        """
        place = place_in_tar(str(filepath))
        if place is None:
            return super().get(filepath)
        shard = _shard(place[0])
        file = _opened(shard.path, shard.state)
        if _state(file.descriptor) != shard.state:  # another than was indexed
            shard = load_shard(shard.path)
            file = _opened(shard.path, shard.state)
        image = shard.find(place[1])
        if image is None:
            raise FileNotFoundError(f'{place[0]} holds no image {place[1]!r}')
        data = os.pread(file.descriptor, int(image['size']), int(image['offset']))
        if len(data) < image['size']:
            raise OSError(f'{filepath} cannot be read to its end: {place[0]} has changed')
        return data
