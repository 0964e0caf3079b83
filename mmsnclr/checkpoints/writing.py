"""Files written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

# What a file carries while it is being written.
TEMPORARY = '.tmp'
# Its name beside the checkpoints of a pretraining.
BACKBONE = 'backbone.pth'


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
    with replacing(path) as temporary:
        torch.save(content, temporary)


def rank_file(path: str, rank: int) -> str:
    """Where a rank saves beside a checkpoint what is its own."""
    return f'{path}.queue{rank}'
