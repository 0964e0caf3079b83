"""Read a backbone of another library or code."""

from ..backbones.importing import import_backbone as import_checkpoint

__all__ = ['import_checkpoint']
