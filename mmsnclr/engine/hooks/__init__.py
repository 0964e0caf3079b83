"""Hooks of the training loop."""

from .checkpoint import AtomicCheckpointHook
from .health import HealthHook
from .heartbeat import HeartbeatHook
from .neighbor_queue import NeighborQueueHook
from .non_finite import NonFiniteHook
from .preemption import PreemptionHook
from .rank_drift import RankDriftHook
from .unreadable_images import UnreadableImagesHook
from .view_seed import ViewSeedHook

__all__ = [
    'AtomicCheckpointHook',
    'HealthHook',
    'HeartbeatHook',
    'NeighborQueueHook',
    'NonFiniteHook',
    'PreemptionHook',
    'RankDriftHook',
    'UnreadableImagesHook',
    'ViewSeedHook',
]
