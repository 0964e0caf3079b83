"""Training around the method: hooks, loops, optimisers, the runner."""

from .hooks import (
    AtomicCheckpointHook,
    HealthHook,
    HeartbeatHook,
    NeighborQueueHook,
    NonFiniteHook,
    PreemptionHook,
    RankDriftHook,
    UnreadableImagesHook,
    ViewSeedHook,
)
from .loops import ResumableTrainLoop
from .optim import BFloat16OptimWrapper
from .runner import build_runner

__all__ = [
    'AtomicCheckpointHook',
    'BFloat16OptimWrapper',
    'HealthHook',
    'HeartbeatHook',
    'NeighborQueueHook',
    'NonFiniteHook',
    'PreemptionHook',
    'RankDriftHook',
    'ResumableTrainLoop',
    'UnreadableImagesHook',
    'ViewSeedHook',
    'build_runner',
]
