"""Optimisers and optimiser wrappers that the parents lack."""

from contextlib import contextmanager

import torch
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
        """Enter autocast on the device of the model.

        Args:
            model: The model that is trained.
        """
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
