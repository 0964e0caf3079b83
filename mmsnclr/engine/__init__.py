"""Training around the method: hooks, optimisers, the runner on machines without CUDA."""

from .hooks import (
    HeartbeatHook,
    NeighborQueueHook,
    NonFiniteHook,
    RankDriftHook,
    UnreadableImagesHook,
    ViewSeedHook,
)
from .optim import BFloat16OptimWrapper
from .pretrained import check_pretrained
from .runner import build_runner

__all__ = [
    'BFloat16OptimWrapper',
    'HeartbeatHook',
    'NeighborQueueHook',
    'NonFiniteHook',
    'RankDriftHook',
    'UnreadableImagesHook',
    'ViewSeedHook',
    'build_runner',
    'check_pretrained',
]
