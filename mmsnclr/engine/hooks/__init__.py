"""Hooks of the training loop."""

from .health import HealthHook
from .neighbor_queue import NeighborQueueHook
from .view_seed import ViewSeedHook

__all__ = ['HealthHook', 'NeighborQueueHook', 'ViewSeedHook']
