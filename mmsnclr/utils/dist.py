"""The two collectives of a training step.

Everything that ranks exchange passes through here; with one process both
functions return their input.
"""

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from torch import Tensor


@torch.no_grad()
def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order.

    Args:
        rows: Shape ``(N, ...)``, the same on every rank.

    Returns:
        Shape ``(N * world size, ...)``.
    """
    return rows if get_world_size() == 1 else torch.cat(all_gather(rows.contiguous()))


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all ranks.

    Args:
        values: Any shape, the same on every rank. Overwritten by the sum.

    Returns:
        The sum, the same on every rank.
    """
    all_reduce(values)
    return values
