"""Write a backbone for another library."""

from ..utils.backbone_export import TARGETS
from ..utils.backbone_export import export_backbone as export

__all__ = ['TARGETS', 'export']
