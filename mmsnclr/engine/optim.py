"""Optimisers and optimiser wrappers that the parents lack."""

from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from timm.optim import Lars
from torch import nn

# timm's LARS keeps norms on the device, where mmpretrain's reads each
# parameter's on the host. It adapts only groups that have a weight decay.
OPTIMIZERS.register_module(name='TIMMLars', module=Lars)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Optimiser wrapper that runs the forward pass in bfloat16 autocast.

    Unlike mmengine's ``AmpOptimWrapper`` it also serves a CPU; bfloat16 has
    float32's range and needs no loss scaling.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Enter autocast on the device of the model."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


def set_amp(cfg: Config, amp: bool = True) -> None:
    """Have a config train in mixed precision, float16 on CUDA and bfloat16 on a CPU, or in float32.

    Raises:
        ValueError: If the config is a detector's and there is no CUDA device.
    """
    if not amp:
        cfg.optim_wrapper.type = 'OptimWrapper'
        cfg.optim_wrapper.pop('loss_scale', None)
        return
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        return
    if cfg.get('default_scope') == 'mmdet':
        raise ValueError(
            "--amp: mmcv's operators have no bfloat16 on a CPU; leave --amp out for detection"
        )
    cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
