"""mmengine's Runner, and what it needs on a machine without CUDA."""

import logging
import os

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn


@RUNNERS.register_module()
class CPURunner(Runner):
    """Runner for machines without CUDA: gloo between processes, no SyncBN."""

    def setup_env(self, env_cfg: dict) -> None:
        """Join the processes by gloo, which mmengine does for CUDA devices only."""
        if self.distributed and not dist.is_initialized():
            if self._launcher != 'pytorch':
                raise ValueError(
                    f'--launcher {self._launcher} needs CUDA devices; '
                    'without them use --launcher pytorch (tools/dist_train.sh)'
                )
            dist.init_process_group('gloo')
        super().setup_env(env_cfg)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model, its SyncBN layers replaced by BN."""
        model = super().build_model(model)
        count = sum(type(module).__name__ == 'SyncBatchNorm' for module in model.modules())
        if count:
            print_log(
                f'No CUDA device: {count} SyncBN layers became BN, so statistics are per process.',
                logger='current',
                level=logging.WARNING,
            )
            model = revert_sync_batchnorm(model)
        return model

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes, without CUDA device ids."""
        if not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        return MMDistributedDataParallel(model, broadcast_buffers=False)


def build_runner(cfg: Config) -> Runner:
    """Build the runner that suits this machine.

    Args:
        cfg: A full config of mmsnclr, mmpretrain or mmdet.

    Returns:
        The runner named by ``cfg.runner_type`` if there is one, else
        mmengine's, or :class:`CPURunner` where there is no CUDA device.
    """
    os.environ.setdefault('LOCAL_RANK', '0')
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    runner = Runner if torch.cuda.is_available() else CPURunner
    return runner.from_cfg(cfg)
