"""Checkpoints: read without running what they hold, written whole or not at all, chosen."""

from .choosing import check_resumable, newest_checkpoint
from .reading import load_checkpoint, stored_config, weights_in
from .writing import replacing

__all__ = [
    'check_resumable',
    'load_checkpoint',
    'newest_checkpoint',
    'replacing',
    'stored_config',
    'weights_in',
]
