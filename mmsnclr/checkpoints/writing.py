"""Files written whole or not at all."""

import fcntl
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from .reading import load_checkpoint

# What a file carries while it is being written.
TEMPORARY = '.tmp'
# Its name beside the checkpoints of a pretraining.
BACKBONE = 'backbone.pth'
_PATIENCE = 8  # seconds, in which the processes of a run that was killed end
_Verb = TypeVar('_Verb', bound=Callable)


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """Write a file whole or not at all, also if the machine stops meanwhile.

    Args:
        path: The file to make or replace.

    Yields:
        The name to write it under. It becomes ``path`` once it is on the disk.
    """
    temporary = path + TEMPORARY
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(os.path.dirname(path) or '.')
    except BaseException:
        with suppress(OSError):
            os.remove(temporary)
        raise


def save_whole(content: Any, path: str | Path) -> None:
    """Write what ``torch.load`` reads, whole or not at all.

    To memory first: a full disk is an ``OSError`` only for Python's own files.
    """
    memory = BytesIO()
    torch.save(content, memory)
    with replacing(str(path)) as temporary:
        Path(temporary).write_bytes(memory.getbuffer())


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; names of files need not be UTF-8."""
    with replacing(str(path)) as temporary:
        Path(temporary).write_text(text, encoding='utf-8', errors='backslashreplace')


def refuse_to_replace(path: str | Path) -> None:
    """Refuse to write a file that is there.

    Raises:
        ValueError: If it is.
    """
    if Path(path).exists():
        raise ValueError(f'out={str(path)!r} is there already: remove it, or choose another name')


def refuse_inputs(out: str | Path, written: Iterable[str], arguments: Mapping[str, Any]) -> None:
    """Refuse to write over a file that was given.

    Args:
        out: Folder that is written into.
        written: Patterns of what a new run writes there.
        arguments: Values by name, of which those that are files are looked at, in lists, too.

    Raises:
        ValueError: If one of them would be written over.
    """
    found = [file for pattern in written for file in Path(out).glob(pattern)]
    files = [file for file in found if file.is_file()]  # no link to nowhere
    for name, value in arguments.items():
        for path in value if isinstance(value, list | tuple) else [value]:
            given = isinstance(path, str | Path) and os.path.isfile(path)
            if given and any(file.samefile(path) for file in files):
                raise ValueError(
                    f'{name}={str(path)!r} would be written over: choose another folder than '
                    f'out={str(out)!r}'
                )


def sole_writer(verb: _Verb) -> _Verb:
    """Let a verb run only while no other writes into its folder ``out``.

    The folder is made, and removed again if it stays empty. A lock that ends with the process
    is on it, where its file system has such.
    """

    @wraps(verb)
    def alone(*args: Any, **kwargs: Any) -> Any:
        out = Path(inspect.signature(verb).bind(*args, **kwargs).arguments['out'])
        made = not out.exists()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f'out={str(out)!r} is or is in a file: choose a folder') from error
        descriptor = os.open(out, os.O_RDONLY)
        try:
            _lock(descriptor, out)
            return verb(*args, **kwargs)
        finally:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # for forked processes, too
            os.close(descriptor)
            if made:
                with suppress(OSError):  # of a folder that is not empty
                    os.rmdir(out)

    return cast(_Verb, alone)


def _lock(descriptor: int, out: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise ValueError(
                    f'out={str(out)!r} is being written by another process: wait for its end, or '
                    'choose another folder'
                ) from None
            time.sleep(0.1)
        except OSError:  # of a file system without locks
            return None


def _flush(path: str) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_backbone(checkpoint: dict, source: str, path: str) -> None:
    """Write the backbone of a training checkpoint alone.

    Args:
        checkpoint: What the checkpoint's file holds.
        source: Name of that file, which is noted.
        path: The file to make or replace.
    """
    weights = checkpoint['state_dict'].items()
    weights = {key: value for key, value in weights if key.startswith('backbone.')}
    content = dict(state_dict=weights, meta=checkpoint['meta'] | dict(source=source))
    save_whole(content, path)


def forget_optimizer(path: str | Path) -> None:
    """Take the optimiser's state, half of a file or more, out of what is trained to its end.

    Args:
        path: A training checkpoint, which is replaced.
    """
    checkpoint = load_checkpoint(str(path))
    checkpoint['optimizer']['state'] = {}
    save_whole(checkpoint, path)


def rank_file(path: str, rank: int) -> str:
    """Where a rank saves beside a checkpoint what is its own."""
    return f'{path}.queue{rank}'
