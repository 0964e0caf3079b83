"""Backbones in every library's naming: what they start from, imported, exported."""

from .exporting import export_backbone
from .importing import import_backbone
from .naming import build_backbone
from .reading import Trained, read_backbone
from .starting import check_pretrained, check_starts, initialize_backbone, name_starts

__all__ = [
    'Trained',
    'build_backbone',
    'check_pretrained',
    'check_starts',
    'export_backbone',
    'import_backbone',
    'initialize_backbone',
    'name_starts',
    'read_backbone',
]
