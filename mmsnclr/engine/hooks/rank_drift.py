"""Ranks that should hold the same numbers do."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_gather, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ...models import NeighborMethod
from ...models.dist import unwrap

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@HOOKS.register_module()
class RankDriftHook(Hook):
    """Stops the run when ranks have drifted apart, and names them.

    Compares a checksum of each parameter and, where ranks share one set, of the
    candidate set. BN statistics, which each rank may have for itself, are left
    out. Costs one pass over these tensors and a gather of 8 bytes for each.

    Args:
        interval: Steps between two checks.
    """

    def __init__(self, interval: int = 1000) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Compare.

        Raises:
            RuntimeError: If a rank differs from most others.
        """
        if get_world_size() == 1 or not self.every_n_train_iters(runner, self.interval):
            return
        model = unwrap(runner.model)
        shared = dict(_shared_tensors(model))
        sums = torch.stack([checksum(tensor) for tensor in shared.values()])
        by_rank = [tuple(rank_sums.tolist()) for rank_sums in all_gather(sums)]
        most = Counter(by_rank).most_common(1)[0][0]
        names = {
            rank: next(n for n, mine, other in zip(shared, sums, most) if mine != other)
            for rank, sums in enumerate(by_rank)
            if sums != most
        }
        if names:
            which = ', '.join(f'rank {rank} in {name}' for rank, name in names.items())
            raise RuntimeError(
                f'Ranks have drifted apart by step {runner.iter + 1}: {which} (the first tensor '
                f'each) differs from the rest. Go on from a checkpoint before this step with '
                '--resume PATH; if it happens again on the same machine, suspect its hardware.'
            )


def _shared_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    if isinstance(model, NeighborMethod) and model.queue.sync:
        yield from ((f'queue.{name}', buffer) for name, buffer in model.queue.named_buffers())


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """Sum of a tensor's bits, weighted by position along its first axis, as int64.

    Equal bits of any shape and type give equal sums on every device.
    """
    bits = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()])
    rows = bits.reshape(len(bits) if bits.ndim else 1, -1).sum(dim=1, dtype=torch.int64)
    return (rows * torch.arange(1, len(rows) + 1, device=rows.device)).sum()
