"""What was computed from images, kept on the disk."""

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from torch import nn

from ..console import say
from ..datasets.shards import cache_folder
from ..version import __version__

MOST = 5 * 2**30  # bytes of all that is kept; the newest stays whatever its size is


def key_of(*parts: object) -> str:
    """Name of what follows from some values that are shown completely, and this version."""
    return blake2b(repr((__version__, *parts)).encode(errors='surrogatepass')).hexdigest()[:40]


def weights_key(network: nn.Module) -> str:
    """Name of a network by its layers and weights."""
    found = blake2b(repr(network).encode())
    for name, value in network.state_dict().items():
        found.update(name.encode())
        found.update(value.cpu().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def files_key(paths: Sequence[str | Path]) -> str:
    """Name of a list of files as they are now, by size, time and permissions of each."""
    return key_of(*map(_state, paths))


def _state(path: str | Path) -> tuple:
    """State of a file; of what is not there, of the folder or archive that is to have it."""
    for place in (Path(path), *Path(path).parents):
        with suppress(OSError):
            state = os.stat(place)
            return str(path), state.st_size, state.st_mtime_ns, state.st_mode
    return (str(path),)


def recall(key: str) -> dict[str, np.ndarray] | None:
    """What :func:`remember` was given under a name; ``None`` if it is not there any more."""
    path = cache_folder() / f'{key}.npz'
    try:
        with np.load(path) as file:
            content = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    with suppress(OSError):  # another's, or removed meanwhile
        os.utime(path)
    return content


def remember(key: str, content: Mapping[str, np.ndarray]) -> None:
    """Keep arrays under a name, if the disk has room, and no more than :data:`MOST` of all.

    What was not asked for the longest goes first.
    """
    folder, draft = cache_folder(), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of a name of its own: another process may write the same.
        with NamedTemporaryFile(dir=folder, suffix='.npz', delete=False) as draft:
            arrays: dict[str, Any] = dict(content)
            np.savez(draft, **arrays)
        os.replace(draft.name, folder / f'{key}.npz')
        _forget(folder.glob('*.npz'))
    except OSError as error:
        if draft is not None:
            Path(draft.name).unlink(missing_ok=True)
        say(f'results are not kept for the next time: {error}', err=True)


def _forget(files: Iterable[Path]) -> None:
    """Remove the oldest files but the newest, until the rest is small enough."""
    found = []
    for path in files:
        with suppress(FileNotFoundError):  # of another process
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found)[:-1]:
        if total <= MOST:
            break
        path.unlink(missing_ok=True)
        total -= size
