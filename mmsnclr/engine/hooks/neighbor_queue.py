"""Drives the candidate set, the momentum encoder and the warm-up."""

from glob import escape, glob
from os import remove
from os.path import exists

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner, find_latest_checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...models.queue import NeighborQueue


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

    def before_run(self, runner: Runner) -> None:
        """Add the saving of sets that differ between ranks."""
        if not unwrap(runner.model).queue.sync:
            runner.register_hook(_RankQueueHook(), priority='LOWEST')

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

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Close the step if the optimiser did."""
        if runner.optim_wrapper.should_update():
            unwrap(runner.model).after_optimizer_step((runner.iter + 1) / runner.max_iters)


class _RankQueueHook(Hook):
    """Saves and resumes each rank's own candidate set, one file per rank.

    Runs after the checkpoint hook, whose file names it extends.
    """

    _saved = None

    def before_train(self, runner: Runner) -> None:
        if runner.iter == 0:
            return
        checkpoint = runner._load_from or find_latest_checkpoint(runner.work_dir)
        path = _rank_file(checkpoint)
        if not exists(path):
            raise FileNotFoundError(
                f"{path} is missing: with queue.sync=False each rank's candidate set lies beside "
                'the checkpoint, so resume with as many processes as it was saved with'
            )
        queue = unwrap(runner.model).queue
        queue.load_entries(torch.load(path, map_location='cpu', weights_only=True))

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        self._save(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._save(runner)

    def _save(self, runner: Runner) -> None:
        checkpoint = runner.message_hub.runtime_info.get('last_ckpt')
        if checkpoint is None or checkpoint == self._saved:
            return
        self._saved = checkpoint
        queue: NeighborQueue = unwrap(runner.model).queue
        torch.save(queue.entries(), _rank_file(checkpoint))
        for path in glob(f'{escape(runner.work_dir)}/*.pth.queue{get_rank()}'):
            owner = path.rpartition('.queue')[0]
            if owner != checkpoint and not exists(owner):
                remove(path)


def _rank_file(checkpoint: str) -> str:
    return f'{checkpoint}.queue{get_rank()}'


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, where a wrapper trains it on several processes."""
    return model.module if is_model_wrapper(model) else model
