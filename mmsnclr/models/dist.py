"""What ranks exchange in a step's forward and backward pass, by two collectives.

With one process the functions return their input. What hooks agree upon beside
the step is theirs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mmengine.dist
import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

# Has all_gather, all_reduce and get_world_size.
_collectives = mmengine.dist


@contextmanager
def exchanging_by(collectives: object) -> Iterator[None]:
    """Use others than mmengine's collectives for a while, such as some that count."""
    global _collectives
    before, _collectives = _collectives, collectives
    try:
        yield
    finally:
        _collectives = before


@torch.no_grad()
def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order: ``(N * world size, ...)``.

    ``rows`` are ``(N, ...)``, of the same shape on every rank.
    """
    if _collectives.get_world_size() == 1:
        return rows
    return torch.cat(_collectives.all_gather(rows.contiguous()))


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
    return rows if _collectives.get_world_size() == 1 else _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        return gather_rows(rows)

    @staticmethod
    def backward(ctx, grad_output):
        count = len(grad_output) // _collectives.get_world_size()
        return sum_over_ranks(grad_output.clone()).split(count)[mmengine.dist.get_rank()]


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, where a wrapper trains it on several processes."""
    return model.module if is_model_wrapper(model) else model
