"""SyncBN for batches that are equal on all ranks."""

from types import SimpleNamespace
from typing import Any

import torch
from timm.layers import SyncBatchNormAct as _Timms
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .dist import gather_rows, sum_over_ranks, world_size


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBN, without waiting for the device.

    torch's leaves ranks with an empty batch out of the statistics, and the
    host has to wait to learn which. Here every rank counts alike: all batches
    must be of the same shape. Also trains on a CPU, and exchanges what it does
    by :mod:`~mmsnclr.models.dist`: once forward and once backward.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, ...)``, in training by the statistics of all ranks."""
        if not self.training or world_size() == 1:
            return _BatchNorm.forward(self, input)
        self._check_input_dim(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        running = self.running_mean, self.running_var
        return _Normalize.apply(input, self.weight, self.bias, *running, self.momentum, self.eps)


class SyncBatchNormAct(SyncBatchNorm):
    """The same with the dropout and the activation that timm has in its layers of BN."""

    act: nn.Module
    drop: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)`` as :class:`SyncBatchNorm`, drop and activate."""
        return self.act(self.drop(super().forward(input)))


def replace_sync_batch_norm(model: nn.Module) -> None:
    """Make layers that compute as torch's SyncBN :class:`SyncBatchNorm`, in place.

    So are those of timm, with an activation. Those with a process group of
    their own stay, and those whose running statistics are means over all steps.
    """
    ours: dict[Any, type] = {
        nn.SyncBatchNorm.forward: SyncBatchNorm,
        _Timms.forward: SyncBatchNormAct,
    }
    for module in model.modules():
        kind = ours.get(getattr(type(module), 'forward', None))
        if kind and module.process_group is None and module.momentum is not None:
            module.__class__ = kind


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        ops, x = _operators(x), _dense(x)
        local = torch.cat(ops.batch_norm_stats(x, eps))
        means, invstds = gather_rows(local[None]).chunk(2, dim=1)
        counts = means.new_full((len(means),), x.numel() // x.size(1))
        mean, invstd = ops.batch_norm_gather_stats_with_counts(
            x, means, invstds, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, invstd, counts.int())
        return ops.batch_norm_elemt(x, weight, bias, mean, invstd, eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight, mean, invstd, counts = ctx.saved_tensors
        ops, grad, needs = _operators(x), _dense(grad), ctx.needs_input_grad[:3]
        *sums, grad_weight, grad_bias = ops.batch_norm_backward_reduce(
            grad, x, mean, invstd, weight, *needs
        )
        grad_input = None
        if needs[0]:
            sums = sum_over_ranks(torch.cat(sums)).chunk(2)
            grad_input = ops.batch_norm_backward_elemt(grad, x, mean, invstd, weight, *sums, counts)
        return (
            grad_input,
            grad_weight if needs[1] else None,
            grad_bias if needs[2] else None,
            *(None,) * 4,
        )


def _dense(x: Tensor) -> Tensor:
    """In one of the two layouts that the operators know."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _operators(x: Tensor) -> object:
    return torch if x.is_cuda else COMPOSED


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(_wide(x), _but_channels(x), correction=0)
    return mean, (var + eps).rsqrt()


def _gather_stats(x, means, invstds, running_mean, running_var, momentum, eps, counts):
    var = (invstds.pow(-2) - eps).mean(0) + means.var(0, correction=0)
    mean, total = means.mean(0), counts.sum()
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (total / (total - 1)), momentum)
    return mean, (var + eps).rsqrt()


def _elemt(x, weight, bias, mean, invstd, eps):
    y = (_wide(x) - _along(x, mean)) * _along(x, invstd)
    if weight is not None:
        y = y * _along(x, weight) + _along(x, bias)
    return y.to(x.dtype)


def _backward_reduce(grad, x, mean, invstd, weight, *needs):
    grad, axes = _wide(grad), _but_channels(x)
    sum_grad, sum_product = grad.sum(axes), (grad * (_wide(x) - _along(x, mean))).sum(axes)
    return sum_grad, sum_product, sum_product * invstd, sum_grad


def _backward_elemt(grad, x, mean, invstd, weight, sum_grad, sum_product, counts):
    total = counts.sum()
    slope = _along(x, sum_product / total * invstd.square())
    centred = _wide(grad) - _along(x, sum_grad / total) - (_wide(x) - _along(x, mean)) * slope
    return (centred * _along(x, invstd if weight is None else invstd * weight)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _along(x: Tensor, values: Tensor) -> Tensor:
    """One value a channel, to be broadcast over ``x``."""
    return values.view(-1, *(1,) * (x.ndim - 2))


# torch has these operators for CUDA only; here for counts that are equal.
COMPOSED = SimpleNamespace(
    batch_norm_stats=_stats,
    batch_norm_gather_stats_with_counts=_gather_stats,
    batch_norm_elemt=_elemt,
    batch_norm_backward_reduce=_backward_reduce,
    batch_norm_backward_elemt=_backward_elemt,
)
