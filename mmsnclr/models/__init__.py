"""The method, in the order in which data flows through it.

Images enter :class:`SNCLR`, pass a backbone and the :class:`SNCLRNeck`, look up
their neighbours in the :class:`NeighborQueue`, and are compared with them by
the :class:`SNCLRHead` and its :class:`SNCLRLoss`. :class:`NNCLR` and :class:`SCE`
are other methods on the same candidate set.
"""

from .algorithm import SNCLR
from .backbone import TIMMRepresentation
from .neck import SNCLRNeck
from .nnclr import NNCLR
from .queue import NeighborQueue
from .sce import SCE, SCEHead, sce_loss
from .snclr_head import SNCLRHead
from .snclr_loss import SNCLRLoss, log_positiveness, neighbor_scores, snclr_loss

__all__ = [
    'NNCLR',
    'SCE',
    'SNCLR',
    'NeighborQueue',
    'SCEHead',
    'SNCLRHead',
    'SNCLRLoss',
    'SNCLRNeck',
    'TIMMRepresentation',
    'log_positiveness',
    'neighbor_scores',
    'sce_loss',
    'snclr_loss',
]
