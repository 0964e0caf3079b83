"""Hooks of the training loop."""

from .channels_last import ChannelsLastHook
from .neighbor_queue import NeighborQueueHook
from .view_seed import ViewSeedHook

__all__ = ['ChannelsLastHook', 'NeighborQueueHook', 'ViewSeedHook']
