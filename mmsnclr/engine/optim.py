"""Optimisers and optimiser wrappers that the parents lack, and the precision of a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    DefaultScope,
)
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from timm.optim import Lars
from torch import nn
from torch.optim import Optimizer

PRECISIONS = ('auto', 'fp16', 'bf16', 'fp32')
# What the commands take; `--amp` alone is the first.
AMP = ('auto', 'fp16', 'bf16', 'off')

# timm's LARS keeps norms on the device, where mmpretrain's reads each
# parameter's on the host. It adapts only groups that have a weight decay.
OPTIMIZERS.register_module(name='TIMMLars', module=Lars)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneLayerDecay(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's layer-wise decay of the learning rate, for any model whose backbone has layers.

    ``paramwise_cfg`` is as there; what is not the backbone's learns at the full rate. Groups of
    equal settings can be merged.
    """

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add a group for each parameter of a module."""
        if prefix:
            return super().add_params(params, module, prefix, **kwargs)
        backbone: Any = module.backbone
        depth = partial(backbone.get_layer_depth, prefix='backbone.')
        super().add_params(params, module, get_layer_depth=depth)
        for group in params:  # so that those of equal settings can be merged
            del group['param_name']


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Optimiser wrapper that runs the forward pass in bfloat16 autocast.

    Unlike mmengine's ``AmpOptimWrapper`` it also serves a CPU; bfloat16 has
    float32's range and needs no loss scaling.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocast on the device of the model."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


def mixed_precision(
    optimizer: Optimizer,
    precision: str = 'auto',
    loss_scale: str | float | dict = 'dynamic',
    **kwargs: Any,
) -> OptimWrapper:
    """Wrap an optimiser for mixed precision on the device that its parameters are on.

    Configs name it ``MixedPrecisionOptimWrapper``.

    Args:
        optimizer: The optimiser.
        precision: ``'auto'``, which is bfloat16 on a CPU and on CUDA devices that have it
            (Ampere and later) and float16 elsewhere, ``'fp16'``, ``'bf16'`` or ``'fp32'``.
            On a CPU ``'fp16'`` is bfloat16. For models of mmdet, whose operators have no
            bfloat16, ``'auto'`` is float16 on CUDA, and on a CPU all are float32.
        loss_scale: For float16, as mmengine's ``AmpOptimWrapper`` has it.
        **kwargs: Further arguments of mmengine's ``OptimWrapper``.

    Returns:
        The wrapper.

    Raises:
        ValueError: If ``precision`` is none of these, or bfloat16 for a model of mmdet.
    """
    device = optimizer.param_groups[0]['params'][0].device
    scope = DefaultScope.get_current_instance()
    kind = _choose(precision, device, scope is not None and scope.scope_name == 'mmdet')
    if kind == 'fp16':
        return AmpOptimWrapper(
            optimizer=optimizer, loss_scale=loss_scale, dtype='float16', **kwargs
        )
    wrapper = BFloat16OptimWrapper if kind == 'bf16' else OptimWrapper
    return wrapper(optimizer=optimizer, **kwargs)


OPTIM_WRAPPERS.register_module(name='MixedPrecisionOptimWrapper', module=mixed_precision)


def _choose(precision: str, device: torch.device, detector: bool) -> str:
    """``'fp16'``, ``'bf16'`` or ``'fp32'``; where it is not what was asked for, the log says so."""
    if precision not in PRECISIONS:
        raise ValueError(f'optim_wrapper.precision={precision!r} must be one of {PRECISIONS}')
    if detector:
        _check_detector(precision)
    if precision == 'fp32':
        return precision
    if device.type == 'cpu' and detector:
        print_log("No CUDA device: mmcv's operators have float32 alone here.", 'current')
        return 'fp32'
    if device.type == 'cpu' and precision == 'fp16':
        print_log('No CUDA device: bfloat16 takes the place of float16.', 'current')
        return 'bf16'
    if precision != 'auto':
        return precision
    # torch.cuda.is_bf16_supported() is also true where bfloat16 is emulated, which is slow.
    native = device.type == 'cpu' or (
        device.type == 'cuda' and torch.cuda.get_device_capability(device) >= (8, 0)
    )
    return 'bf16' if native and not detector else 'fp16'


def _check_detector(precision: str) -> None:
    if precision == 'bf16':
        raise ValueError(
            "--amp bf16 (optim_wrapper.precision): mmcv's operators have no bfloat16; for a "
            'detector take fp16, or leave it out'
        )


def precision_of(cfg: Config) -> str:
    """What a config says of precision: as :func:`mixed_precision` has it, or a wrapper's type."""
    wrapper = cfg.get('optim_wrapper') or {}
    kind = wrapper.get('type', 'OptimWrapper')
    if kind == 'MixedPrecisionOptimWrapper':
        return wrapper.get('precision', 'auto')
    known = dict(OptimWrapper='fp32', BFloat16OptimWrapper='bf16', AmpOptimWrapper='fp16')
    return known.get(kind, kind)


def set_amp(cfg: Config, amp: str | bool | None = 'auto') -> None:
    """Set the precision that a config trains in.

    Args:
        cfg: A full config; changed in place.
        amp: ``'auto'``, ``'fp16'`` or ``'bf16'``, as :func:`mixed_precision` has it, or
            ``'off'``, which is float32; ``None`` leaves it as it is. Runs of before recorded
            ``True`` and ``False``.

    Raises:
        ValueError: If it is none of these, or bfloat16 for a model of mmdet.
    """
    if amp is None:
        return
    if isinstance(amp, bool):
        amp = 'auto' if amp else 'off'
    if amp not in AMP:
        raise ValueError(f'amp={amp!r} must be one of {AMP}')
    if cfg.get('default_scope') == 'mmdet':
        _check_detector(amp)
    cfg.optim_wrapper.pop('dtype', None)
    if amp == 'off':
        cfg.optim_wrapper.pop('precision', None)
        cfg.optim_wrapper.pop('loss_scale', None)
        cfg.optim_wrapper.type = 'OptimWrapper'
    else:
        cfg.optim_wrapper.update(type='MixedPrecisionOptimWrapper', precision=amp)
