"""Checkpoints: read without running what they hold, written whole or not at all, chosen."""

from .choosing import check_bytes, check_resumable, newest_checkpoint
from .reading import Stored, at_hand, load_checkpoint
from .writing import (
    BACKBONE,
    TEMPORARY,
    forget_optimizer,
    rank_file,
    refuse_inputs,
    refuse_to_replace,
    replacing,
    save_whole,
    sole_writer,
    write_backbone,
    write_text,
)

__all__ = [
    'BACKBONE',
    'TEMPORARY',
    'Stored',
    'at_hand',
    'check_bytes',
    'check_resumable',
    'forget_optimizer',
    'load_checkpoint',
    'newest_checkpoint',
    'rank_file',
    'refuse_inputs',
    'refuse_to_replace',
    'replacing',
    'save_whole',
    'sole_writer',
    'write_backbone',
    'write_text',
]
