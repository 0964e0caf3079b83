"""`mmsnclr export`: write a backbone for another library."""

from ..backbones.exporting import TARGETS
from ..backbones.exporting import export_backbone as export

__all__ = ['TARGETS', 'export']
