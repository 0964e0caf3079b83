"""The method, in the order in which data flows through it.

Images are moved and normalised (``data_preprocessor.py``). A
:class:`NeighborMethod` (``base.py``) passes them through a backbone
(``backbone.py``) and a projector (``neck.py``), twice, and compares what comes
out with its neighbours in the candidate set (``queue.py``). How, a method says:
:class:`SNCLR` (``snclr.py``) by its head and loss (``snclr_head.py``,
``snclr_loss.py``), :class:`NNCLR` and :class:`SCE` in a file each. What ranks
exchange on the way is in ``dist.py``; ``sync_batch_norm.py`` has their BN.
What a detector makes of a backbone is in ``feature_maps.py``.
"""

from .backbone import TIMMRepresentation, pooled
from .base import NeighborMethod, method_of
from .data_preprocessor import ViewsDataPreprocessor
from .feature_maps import SimpleFeaturePyramid, TIMMFeatures, ViTFeatures
from .neck import SNCLRNeck
from .nnclr import NNCLR
from .queue import NeighborQueue
from .sce import SCE, SCEHead, sce_loss
from .snclr import SNCLR
from .snclr_head import SNCLRHead
from .snclr_loss import SNCLRLoss, log_positiveness, neighbor_scores, snclr_loss

__all__ = [
    'NNCLR',
    'SCE',
    'SNCLR',
    'NeighborMethod',
    'NeighborQueue',
    'SCEHead',
    'SNCLRHead',
    'SNCLRLoss',
    'SNCLRNeck',
    'SimpleFeaturePyramid',
    'TIMMFeatures',
    'TIMMRepresentation',
    'ViTFeatures',
    'ViewsDataPreprocessor',
    'log_positiveness',
    'method_of',
    'neighbor_scores',
    'pooled',
    'sce_loss',
    'snclr_loss',
]
