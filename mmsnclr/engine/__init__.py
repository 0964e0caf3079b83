"""Training around the method: hooks, optimisers, the runner on machines without CUDA."""

from .hooks import HealthHook, NeighborQueueHook, ViewSeedHook
from .optim import BFloat16OptimWrapper
from .pretrained import check_pretrained
from .runner import build_runner

__all__ = [
    'BFloat16OptimWrapper',
    'HealthHook',
    'NeighborQueueHook',
    'ViewSeedHook',
    'build_runner',
    'check_pretrained',
]
