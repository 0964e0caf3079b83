"""Hooks of the training loop."""

from .neighbor_queue import NeighborQueueHook
from .view_seed import ViewSeedHook

__all__ = ['NeighborQueueHook', 'ViewSeedHook']
