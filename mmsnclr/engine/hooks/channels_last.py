"""Memory layout of convolutions."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps a model's weights, and so its feature maps, in channels-last layout.

    Convolutions run faster so under mixed precision on CUDA, and on CPUs.
    """

    def before_train(self, runner: Runner) -> None:
        """Convert the model."""
        runner.model.to(memory_format=torch.channels_last)
