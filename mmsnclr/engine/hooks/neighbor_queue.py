"""Drives the candidate set, the momentum encoder and the warm-up."""

from glob import escape, glob
from os import remove
from os.path import dirname, exists
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.nn.modules.batchnorm import _BatchNorm

from ...checkpoints import load_checkpoint, rank_file, save_whole
from ...models.dist import unwrap


@HOOKS.register_module()
class NeighborQueueHook(Hook):
    """Once per optimiser step: momentum update, then enqueue.

    Also leaves neighbours out during the first epochs (the paper's m, appendix
    A: early features identify neighbours wrongly).

    Args:
        warmup_epochs: m, the number of epochs without neighbours.
    """

    def __init__(self, warmup_epochs: int = 0) -> None:
        if warmup_epochs < 0:
            raise ValueError(
                f'NeighborQueueHook.warmup_epochs={warmup_epochs} must not be negative'
            )
        self.warmup_epochs = warmup_epochs

    def save_rank_state(self, runner: Runner, path: str) -> None:
        """Save a set that differs between ranks beside the checkpoint that is to come."""
        queue = unwrap(runner.model).queue
        if queue.sync:
            return
        save_whole(queue.entries(), rank_file(path, get_rank()))
        for old in glob(f'{escape(dirname(path))}/*.pth.queue{get_rank()}'):
            owner = old.rpartition('.queue')[0]
            if owner != path and not exists(owner):
                remove(old)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note how many files belong to the checkpoint."""
        if not unwrap(runner.model).queue.sync:
            checkpoint['meta']['rank_files'] = get_world_size()

    def load_rank_state(self, runner: Runner, path: str, world_size: int) -> None:
        """Load what :meth:`save_rank_state` saved in ``world_size`` processes.

        Raises:
            ValueError: If there are more or fewer processes now.
            FileNotFoundError: If this rank's file is not there.
        """
        queue = unwrap(runner.model).queue
        if queue.sync:
            return
        if world_size != get_world_size():
            raise ValueError(
                f'{path} holds {world_size} candidate sets, one for each process (queue.sync=False)'
                f', but there are {get_world_size()} processes: resume with {world_size}'
            )
        queue.load_entries(load_checkpoint(rank_file(path, get_rank())))

    def before_train(self, runner: Runner) -> None:
        """Check what would fail, or hang, only later.

        Raises:
            ValueError: If ranks would get batches of different size, if BN
                would get a batch of one image, or if a warm-up is to be
                counted where there are no epochs.
        """
        if self.warmup_epochs and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                f'NeighborQueueHook.warmup_epochs={self.warmup_epochs} counts epochs: set '
                'train_cfg.by_epoch=True with train_cfg.max_epochs, or warmup_epochs=0'
            )
        loader, ranks = runner.train_dataloader, get_world_size()
        if len(loader.dataset) % ranks and not getattr(loader.sampler, 'round_up', True):
            raise ValueError(
                f'{len(loader.dataset)} images do not divide among {ranks} ranks, whose keys and '
                'counts must match: set train_dataloader.sampler.round_up=True'
            )
        alone = ranks == 1 or not torch.cuda.is_available()  # else SyncBN sees all ranks
        last = len(loader.sampler) % loader.batch_size if loader.batch_size else 0
        norms = any(isinstance(m, _BatchNorm) for m in runner.model.modules())
        if alone and norms and last == 1 and not loader.drop_last:
            raise ValueError(
                'the last batch of an epoch would be one image, over which BN has no statistics: '
                'set train_dataloader.drop_last=True'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Use neighbours once the warm-up is over."""
        if 0 < self.warmup_epochs == runner.epoch:
            runner.logger.info(
                f'Neighbours join from epoch {runner.epoch + 1}: they add negatives, so the loss '
                'rises and cannot be compared with that before'
            )
        unwrap(runner.model).use_neighbors = runner.epoch >= self.warmup_epochs

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Close the step if the optimiser did."""
        if runner.optim_wrapper.should_update():
            if runner.message_hub.runtime_info.get('step_skipped'):  # see NonFiniteHook
                unwrap(runner.model).forget_step()
            else:
                unwrap(runner.model).after_optimizer_step((runner.iter + 1) / runner.max_iters)
