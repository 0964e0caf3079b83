"""mmengine's Runner, made to survive interruptions, and what it needs without CUDA."""

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger, print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, LOOPS, MODEL_WRAPPERS, RUNNERS, Registry
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from ..backbones import check_pretrained
from ..checkpoints import (
    Stored,
    at_hand,
    check_bytes,
    check_resumable,
    load_checkpoint,
    replacing,
)
from ..models import NeighborMethod
from ..models.backbone import freeze_fixed_positions
from ..models.dist import unwrap
from ..models.feature_maps import follow_backbone
from ..models.sync_batch_norm import replace_sync_batch_norm
from ..parents import (
    bound_history,
    detach_loader,
    leave_out_noise,
    survive_full_disk,
)
from .checks import check_start
from .launch import share_of_batch
from .log_processor import longest_window
from .loops import using_workers
from .optim import precision_of
from .param_groups import merge_groups
from .run import write_config
from .schedule import Schedule
from .start import choose_start, write_run_id
from .store import group_timeout

# mmengine's
_HOOKS = ['runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint']


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """mmengine's Runner, whose training goes on exactly where it was interrupted.

    Attributes:
        run_id: Name of the run, the same after it was resumed.
    """

    _train_dataloader: DataLoader | dict
    _resume: bool
    _load_from: str | None

    def __init__(self, *args: Any, experiment_name: str | None = None, **kwargs: Any) -> None:
        self.run_id = uuid4().hex
        self._pretrained: list[Stored] = []
        # Runners that mmengine names alike, by the second, would share log, values and pictures.
        name = experiment_name or Path(getattr(kwargs.get('cfg'), 'filename', None) or 'run').stem
        super().__init__(*args, experiment_name=f'{name}_{self.run_id[:8]}', **kwargs)

    def setup_env(self, env_cfg: dict) -> None:
        """Join the processes; with ``share_batch`` in the config, they share a loader's batch."""
        super().setup_env(env_cfg)
        if self.cfg.get('share_batch') and isinstance(self._train_dataloader, dict):
            size = share_of_batch(self._train_dataloader['batch_size'], self.world_size)
            self._train_dataloader = {**self._train_dataloader, 'batch_size': size}

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """Register the default hooks but those that are ``None``; checkpoints are made safe."""
        hooks = {'checkpoint': {}, 'preemption': dict(type='PreemptionHook')} | dict(hooks or {})
        checkpoint, plain = hooks['checkpoint'], CheckpointHook
        if isinstance(checkpoint, dict) and _type(checkpoint, HOOKS, plain) is plain:
            hooks['checkpoint'] = dict(interval=1) | checkpoint | dict(type='AtomicCheckpointHook')
        # mmengine takes None for its own hooks only.
        kept = {k: hook for k, hook in hooks.items() if hook is not None or k in _HOOKS}
        super().register_default_hooks(kept)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop; over epochs it is one that can start within an epoch.

        What the log will not look at any more is no longer kept.
        """
        if isinstance(loop, BaseLoop):
            return loop
        if loop.get('by_epoch') or _type(loop, LOOPS) is EpochBasedTrainLoop:
            loop = {key: value for key, value in loop.items() if key != 'by_epoch'}
            loop['type'] = 'ResumableTrainLoop'
        loop = super().build_train_loop(loop)
        window = longest_window(self.log_processor, len(loop.dataloader))
        if window is not None:
            bound_history(self.message_hub, window)
        return loop

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger, which leaves out what says nothing about the run."""
        logger = super().build_logger(*args, **kwargs)
        leave_out_noise(logger)
        return logger

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """Build the visualizer, without which training goes on where a disk is full."""
        visualizer = super().build_visualizer(visualizer)
        survive_full_disk(visualizer)
        return visualizer

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | dict) -> OptimWrapper:
        """Build the optimiser, its groups merged as by :func:`merge_groups`."""
        if isinstance(optim_wrapper, OptimWrapper):
            return optim_wrapper
        return merge_groups(super().build_optim_wrapper(optim_wrapper))

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model, in channels-last layout by ``channels_last = True`` in the config."""
        model = super().build_model(model)
        freeze_fixed_positions(model)
        last = self.cfg.get('channels_last')
        return model.to(memory_format=torch.channels_last) if last else model

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; what ``sync_bn`` made becomes our SyncBN."""
        model = super().wrap_model(model_wrapper_cfg, model)
        if isinstance(unwrap(model), NeighborMethod):
            replace_sync_batch_norm(unwrap(model))
        return model

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """Build a loader that does not draw from the generator that models draw from.

        Its workers keep this process's handler of SIGTERM (see ``PreemptionHook``).
        """
        loader = Runner.build_dataloader(*args, **kwargs)
        detach_loader(loader)
        return loader

    def train(self) -> nn.Module:
        """Train, from where :func:`choose_start` says.

        Where nothing is resumed pretrained parts are checked first, as
        :func:`check_pretrained` does.
        """
        self._resume, self._load_from = choose_start(self, self._resume, self._load_from)
        if not self._resume:
            if not self.cfg.get('allow_partial_pretrained'):
                self._pretrained = check_pretrained(unwrap(self.model))
            write_run_id(self.work_dir, self.run_id)
        try:
            if self._train_loop is not None:
                check_start(self)
            with using_workers(self, 'train', 'val'):
                return super().train()
        finally:
            self.call_hook('leave_train')

    def val(self) -> dict:
        """Validate as the parent does, errors of loaders in one sentence."""
        with using_workers(self, 'val'):
            return super().val()

    def test(self) -> dict:
        """Test likewise."""
        with using_workers(self, 'test'):
            return super().test()

    def _init_model_weights(self) -> None:
        """Initialise from the checkpoints that were checked, without reading them again."""
        with at_hand(*self._pretrained):
            super()._init_model_weights()
        self._pretrained = []

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume training from a checkpoint.

        Args:
            filename: The checkpoint.
            *args: As for mmengine's Runner.
            **kwargs: As for mmengine's Runner.

        Raises:
            ValueError: If the checkpoint is partial or of another model,
                optimiser or number of processes than can go on from it.
        """
        saved = load_checkpoint(filename, mmap=True)
        check_bytes(filename)
        check_resumable(filename, saved, unwrap(self.model), self.cfg)
        meta, loader = saved['meta'], self.train_dataloader
        schedule = Schedule(self.optim_wrapper, self.param_schedulers)
        changes = schedule.changes_since(filename, saved)
        now = len(loader) if isinstance(self.train_loop, EpochBasedTrainLoop) else None
        before = meta.get('iters_per_epoch', now)
        super().resume(filename, *args, **kwargs)
        schedule.regroup(saved['optimizer'], self.param_schedulers)
        self.run_id = meta.get('run_id') or self.run_id
        write_run_id(self.work_dir, self.run_id)
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if sampler is not None and getattr(sampler, 'seed', None) is not None:
                sampler.seed = self.seed  # that of the checkpoint
        ranks = meta.get('world_size', self.world_size)
        self.call_hook('load_rank_state', path=filename, world_size=ranks)
        if ranks != self.world_size:
            self.logger.warning(
                f'{self.world_size} processes go on with what {ranks} began: weights, optimiser '
                'and candidate set are the same, random states are not, and a batch holds other '
                'images unless the total batch size is the same.'
            )
        if before and now and before != now:
            self._change_epoch_length(before, now)
        if self.iter > self.max_iters:
            raise ValueError(
                f'cannot resume from {filename}: it was trained for {self.iter} iterations, and '
                f'train_cfg ends at {self.max_iters}'
            )
        ran = saved['message_hub'].get('runtime_info', {})
        planned = ran.get('max_epochs', 0) * now if now else ran.get('max_iters', 0)
        schedule.check_end(filename, planned, self.max_iters, now)
        if changes:
            self.logger.warning(
                f'The config is not that of {filename}: {"; ".join(changes)}. Training goes on '
                f'at iteration {self.iter}, by the schedule of the config.'
            )
        self._tell_precision(Stored(Path(filename), saved).config)
        if changes or before != now:
            schedule.go_to(self.iter, now, self.optim_wrapper, self.param_schedulers)

    def _tell_precision(self, before: Config | None) -> None:
        """Warn where training goes on in another precision than it had."""
        was, now = (cfg and precision_of(cfg) for cfg in (before, self.cfg))
        if was not in (None, now):
            self.logger.warning(f'The precision was {was}, and is {now} from now on (--amp).')

    def _change_epoch_length(self, before: int, now: int) -> None:
        """Go on at the same share of the epoch."""
        loop = self.train_loop
        loop._iter = loop._epoch * now + (loop._iter - loop._epoch * before) * now // before
        self.logger.warning(
            f'An epoch has {now} iterations instead of {before}: training goes on at iteration '
            f'{loop._iter}, with the learning rate that the config gives there.'
        )

    @master_only
    def dump_config(self) -> None:
        """Write the config into the work directory, but not over the file that it was read from.

        A trial by other settings leaves a run's config as it is; its own lies beside its log.
        """
        source = Path(self.cfg.filename or f'{self.timestamp}.py')
        target = Path(self.work_dir, source.name)
        if not (source.exists() and target.exists() and target.samefile(source)):
            write_config(self.cfg, target.with_suffix('.py'))

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, whole or not at all.

        Args:
            out_dir: Folder, or a prefix of another of mmengine's file backends.
            filename: Name of the checkpoint.
            *args: As for mmengine's Runner.
            **kwargs: As for mmengine's Runner.
        """
        if '://' in out_dir:
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        with replacing(os.path.join(out_dir, filename)) as temporary:
            super().save_checkpoint(out_dir, os.path.basename(temporary), *args, **kwargs)


@RUNNERS.register_module()
class CPURunner(ResumableRunner):
    """Runner for machines without CUDA: gloo between processes, no SyncBN."""

    def setup_env(self, env_cfg: dict) -> None:
        """Join the processes by gloo, which mmengine does for CUDA devices only."""
        if self.distributed and not dist.is_initialized():
            if self._launcher != 'pytorch':
                raise ValueError(
                    f'--launcher {self._launcher} needs CUDA devices; '
                    'without them use --launcher pytorch (tools/dist_train.sh)'
                )
            dist.init_process_group('gloo', timeout=timedelta(seconds=group_timeout(self.cfg)))
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
        settings = model_wrapper_cfg or dict(
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False),
        )
        settings = dict(type='MMDistributedDataParallel') | settings
        return MODEL_WRAPPERS.build(settings, default_args=dict(module=model))


def _type(settings: dict, registry: Registry, default: type | None = None) -> object:
    """The class that is to be built, by whatever name; none if nothing has that name."""
    kind = settings.get('type') or default
    with registry.switch_scope_and_registry(settings.get('_scope_')) as scoped:
        return scoped.get(kind) if isinstance(kind, str) else kind


def build_runner(cfg: Config) -> Runner:
    """Build the runner that suits this machine.

    Args:
        cfg: A full config of mmsnclr, mmpretrain or mmdet.

    Returns:
        The runner named by ``cfg.runner_type`` if there is one, else
        :class:`ResumableRunner`, or :class:`CPURunner` where there is no CUDA
        device.
    """
    # mmengine reads it, and sets it for Slurm alone.
    os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', '0'))
    _set_collate(cfg)
    follow_backbone(cfg.model)
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    runner = ResumableRunner if torch.cuda.is_available() else CPURunner
    return runner.from_cfg(cfg)


def _set_collate(cfg: Config) -> None:
    """Have every loader stack tensors, as mmpretrain's models want it.

    Also drops the scope that ``_base_ = 'mmpretrain::...'`` puts into an
    inherited ``collate_fn``, as mmengine would pass it to the function.
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader is None:
            continue
        if cfg.get('default_scope') != 'mmdet':
            loader.setdefault('collate_fn', dict(type='default_collate'))
        if isinstance(loader.get('collate_fn'), dict):
            loader.collate_fn.pop('_scope_', None)
