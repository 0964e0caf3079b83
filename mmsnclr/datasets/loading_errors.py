"""Errors of loading, told as what they are."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import cv2

# Of images that are gone, empty, damaged, or of no height at the size that they are scaled to;
# mmcv's loader asserts.
UNREADABLE = (OSError, ValueError, AssertionError, cv2.error)
_T = TypeVar('_T')
_OF_WORKERS = re.compile(r'DataLoader worker|with the workers|shared memory|/torch_\d')
_NO_MEMORY = re.compile(r'Bus error|shared memory|/torch_\d')


def loaded(batches: Iterable[_T]) -> Iterator[_T]:
    """Yield batches.

    Raises:
        OSError: If one cannot be loaded.
    """
    try:
        yield from batches
    except (AssertionError, RuntimeError) as error:
        raise _told(error) from error


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Name what a process that loads images has met, or that it has ended, in one sentence.

    torch says the latter wherever training is, and of the former tells all calls.

    Raises:
        OSError: In the place of torch's error.
    """
    try:
        yield
    except Exception as error:
        if not _OF_WORKERS.search(str(error)):
            raise
        raise _told(error) from error


def _told(error: Exception) -> OSError:
    *_, line = str(error).strip().splitlines() or [type(error).__name__]
    if _NO_MEMORY.search(str(error)):
        return OSError(
            'the processes that load images have too little shared memory (/dev/shm): lower '
            '--workers (train_dataloader.num_workers; 0 needs none), or give the container more, '
            f'as by docker run --shm-size=8g; {line}'
        )
    return OSError(f'images cannot be loaded: {line}')
