"""The method, in the order in which data flows through it.

Images enter :class:`SNCLR`, pass a backbone and the :class:`SNCLRNeck`, look up
their neighbours in the :class:`NeighborQueue`, and are compared with them by
the :class:`SNCLRHead` and its :class:`SNCLRLoss`.
"""

from .algorithm import SNCLR
from .backbone import TIMMRepresentation
from .neck import SNCLRNeck
from .queue import NeighborQueue
from .snclr_head import SNCLRHead
from .snclr_loss import SNCLRLoss, log_positiveness, neighbor_scores, snclr_loss

__all__ = [
    'SNCLR',
    'NeighborQueue',
    'SNCLRHead',
    'SNCLRLoss',
    'SNCLRNeck',
    'TIMMRepresentation',
    'log_positiveness',
    'neighbor_scores',
    'snclr_loss',
]
