"""Products in full float32, whatever autocast and TF32 are allowed elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

# What multiplies, and whose setting it follows where it has none of its own (torch >= 2.9).
_BACKENDS: tuple[tuple[Any, Any], ...] = (
    (torch.backends.cuda.matmul, torch.backends.cudnn),
    (getattr(torch.backends.mkldnn, 'matmul', None), torch.backends.mkldnn),
)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Switch autocast of a device off, and TF32 and bfloat16 within float32 products.

    A backward pass runs outside of the context of its forward pass and enters its own.
    """
    level = None
    with suppress(RuntimeError):  # torch >= 2.9, where both of its interfaces were used
        level = torch.get_float32_matmul_precision()
    found = [(backend, _own_precision(backend, parent)) for backend, parent in _BACKENDS]
    before = [(backend, value) for backend, value in found if value is not None]
    try:
        if level not in (None, 'highest'):
            torch.set_float32_matmul_precision('highest')
        for backend, _ in before:
            backend.fp32_precision = 'ieee'
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if level not in (None, 'highest'):
            torch.set_float32_matmul_precision(level)
        for backend, value in before:
            backend.fp32_precision = value


def _own_precision(backend: object, parent: object) -> str | None:
    """What a backend is set to, ``'none'`` where it follows its parent; ``None`` before 2.9."""
    value, inherited = (getattr(x, 'fp32_precision', None) for x in (backend, parent))
    return 'none' if value is not None and value == inherited else value


def products(z: Tensor, rows: Tensor) -> Tensor:
    """``z @ rows.T``, ``(N, M)``, of ``(N, D)`` and ``(M, D)``, whose gradients are exact too."""
    return _Products.apply(z, rows)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, rows):
        ctx.save_for_backward(z, rows)
        return z @ rows.T

    @staticmethod
    def backward(ctx, grad_output):
        z, rows = ctx.saved_tensors
        with exact_float32(grad_output.device):
            for_z = grad_output @ rows if ctx.needs_input_grad[0] else None
            for_rows = grad_output.T @ z if ctx.needs_input_grad[1] else None
        return for_z, for_rows
