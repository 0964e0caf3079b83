"""Hooks of the training loop."""

from .checkpoint import AtomicCheckpointHook
from .neighbor_queue import NeighborQueueHook
from .preemption import PreemptionHook
from .view_seed import ViewSeedHook

__all__ = ['AtomicCheckpointHook', 'NeighborQueueHook', 'PreemptionHook', 'ViewSeedHook']
