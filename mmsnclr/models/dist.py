"""What ranks exchange in a step's forward and backward pass, by two collectives.

With one process the functions return their input. What hooks agree upon beside
the step is theirs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import mmengine.dist
import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn


def _all_gather(rows: Tensor) -> Tensor:
    """The rows of all ranks, by NCCL without a copy of each rank's."""
    if mmengine.dist.get_backend() != 'nccl':
        return torch.cat(mmengine.dist.all_gather(rows))
    gathered = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
    torch.distributed.all_gather_into_tensor(gathered, rows)
    return gathered


_collectives: Any = SimpleNamespace(
    all_gather=_all_gather,
    all_reduce=mmengine.dist.all_reduce,
    get_world_size=mmengine.dist.get_world_size,
)


@contextmanager
def exchanging_by(collectives: Any) -> Iterator[None]:
    """Use others than mmengine's collectives for a while, such as some that count."""
    global _collectives
    before, _collectives = _collectives, collectives
    try:
        yield
    finally:
        _collectives = before


def world_size() -> int:
    """Number of ranks that exchange."""
    return _collectives.get_world_size()


@torch.no_grad()
def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order: ``(N * world size, ...)``.

    ``rows`` are ``(N, ...)``, of the same shape on every rank.
    """
    if world_size() == 1:
        return rows
    return _collectives.all_gather(rows.contiguous())


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """Overwrite a tensor, of the same shape on every rank, by its sum over all ranks."""
    _collectives.all_reduce(values)
    return values


def gather_rows_with_gradient(rows: Tensor) -> Tensor:
    """:func:`gather_rows`, through which gradients return to the rank of each row.

    As ``torch.distributed.nn.functional.all_gather``, which wants a process group
    and would pass :func:`exchanging_by` by.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        return gather_rows(rows)

    @staticmethod
    def backward(ctx, grad_output):
        count = len(grad_output) // world_size()
        return sum_over_ranks(grad_output.clone()).split(count)[mmengine.dist.get_rank()]


def unwrap(model: nn.Module) -> Any:
    """The model itself, where a wrapper trains it on several processes."""
    return model.module if is_model_wrapper(model) else model
