"""What a training step costs: time, bytes between ranks, memory of a rank."""

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from types import SimpleNamespace

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from ..datasets.loading_errors import loaded, naming_lost_workers
from ..models.dist import exchanging_by
from .param_groups import build_optim_wrapper


@contextmanager
def synthetic_peers(ranks: int) -> Iterator[Counter]:
    """Let one process pass for the first of several ranks.

    Its collectives return what they would if every peer held the same as this
    process, and are counted.

    Args:
        ranks: Number of ranks.

    Yields:
        Bytes that the rank receives, by collective. An ``all_reduce`` is taken
        as a ring, in which a rank receives ``2 (ranks - 1) / ranks`` times the
        tensor.
    """
    received: Counter[str] = Counter()

    def all_gather(values: Tensor) -> Tensor:
        received['all_gather'] += (ranks - 1) * values.nbytes
        return torch.cat([values] * ranks)

    def all_reduce(values: Tensor) -> None:
        received['all_reduce'] += ring_bytes(values.nbytes, ranks)
        values *= ranks

    peers = SimpleNamespace(
        all_gather=all_gather, all_reduce=all_reduce, get_world_size=lambda: ranks
    )
    with exchanging_by(peers):
        yield received


def ring_bytes(size: int, ranks: int) -> int:
    """Bytes that each rank receives in a ring all-reduce of ``size`` bytes."""
    return 2 * (ranks - 1) * size // ranks


class PeakMemory(TorchDispatchMode):
    """Counts the bytes that tensors made inside occupy at the same time.

    Works on fake tensors too, so the memory of a step can be known without
    the device and without the time that the step takes.

    Args:
        held: Tensors that are there already and do not count.

    Attributes:
        now: Bytes that are occupied.
        peak: Their maximum so far.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in held)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run the operator and note the storage of what is new."""
        known = {x.untyped_storage()._cdata for x in _tensors((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in known and storage not in self._seen:
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


def _tensors(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))


def build_training(cfg: Config) -> tuple[BaseModel, OptimWrapper]:
    """Build what one process trains on this device.

    Args:
        cfg: A config of any training; its default scope is the current one.

    Returns:
        The model, whose SyncBN layers are BN on a CPU as in a run, and its optimiser.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark = cfg.get('env_cfg', {}).get('cudnn_benchmark', False)
    model = MODELS.build(cfg.model)
    if device == 'cpu':
        model = revert_sync_batchnorm(model)
    model = model.to(device).train()
    return model, build_optim_wrapper(model, cfg.optim_wrapper)


@naming_lost_workers()
def seconds_per_step(cfg: Config, limit: float = 5.0) -> float:
    """Train for some steps on this device, loading included, and time them.

    Args:
        cfg: A config of any training; its default scope is the current one.
        limit: Seconds after which no further step is taken, neither to warm up
            nor to measure; at least one of each is.

    Returns:
        Seconds of a step.

    Raises:
        OSError: If images cannot be loaded.
        ValueError: If a step does not fit into the device's memory.
    """
    model, wrapper = build_training(cfg)
    after_step = getattr(model, 'after_optimizer_step', lambda progress: None)

    def step(batch: dict) -> None:
        model.train_step(batch, wrapper)
        after_step(0.0)

    try:
        return _time(cfg.train_dataloader, step, limit)
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(
            f'{cfg.train_dataloader.batch_size} images of a process do not fit into the memory of '
            'its device: lower --batch or --size'
        ) from error


@naming_lost_workers()
@torch.no_grad()
def seconds_per_test(cfg: Config, limit: float = 5.0) -> float:
    """The same of a batch of the validation, of an untrained model.

    Args:
        cfg: As for :func:`seconds_per_step`.
        limit: Likewise.

    Returns:
        Seconds of a batch.
    """
    model, _ = build_training(cfg)
    return _time(cfg.val_dataloader, model.eval().val_step, limit)


def _time(dataloader: dict, step: Callable[[dict], object], limit: float) -> float:
    """Seconds of a step on a batch, loading included."""
    loader = Runner.build_dataloader(dataloader, seed=0)
    # What the workers have loaded ahead must not count.
    ahead = 1 + loader.num_workers * (loader.prefetch_factor or 0)
    start, steps, measuring = time.perf_counter(), 0, False
    for batch in loaded(chain.from_iterable(repeat(loader))):
        step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now, steps = time.perf_counter(), steps + 1
        if measuring and (steps >= 10 or now - start > limit):
            return (now - start) / steps
        if not measuring and (steps >= ahead or now - start > limit):
            start, steps, measuring = now, 0, True
    raise AssertionError('the batches have no end')
