"""Training around the method: hooks, checkpoints, optimisers, the runner."""

from ..backbones.starting import check_pretrained
from ..checkpoints.reading import load_checkpoint, stored_config
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
    'check_pretrained',
    'load_checkpoint',
    'stored_config',
]
