"""Hooks of the training loop."""

from .heartbeat import HeartbeatHook
from .neighbor_queue import NeighborQueueHook
from .non_finite import NonFiniteHook
from .rank_drift import RankDriftHook
from .unreadable_images import UnreadableImagesHook
from .view_seed import ViewSeedHook

__all__ = [
    'HeartbeatHook',
    'NeighborQueueHook',
    'NonFiniteHook',
    'RankDriftHook',
    'UnreadableImagesHook',
    'ViewSeedHook',
]
