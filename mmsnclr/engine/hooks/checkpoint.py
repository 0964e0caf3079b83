"""Checkpoints that an interruption cannot spoil."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from glob import escape, glob
from inspect import signature
from os import remove
from os.path import basename, join
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    broadcast_object_list,
    get_world_size,
    is_main_process,
    master_only,
)
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.models.selfsup import BaseSelfSupervisor

from ...checkpoints import BACKBONE, TEMPORARY, replacing, write_backbone
from ...models.dist import sum_over_ranks, unwrap
from ...random_state import get_random_state, set_random_state
from ...version import __version__


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's hook, made safe against interruptions and full disks.

    An old checkpoint goes only after the new one is complete. If a checkpoint
    cannot be written, training goes on from the last good one, unless it was
    the run's last. Each rank's random states are saved, and what other hooks
    save for each rank in ``save_rank_state(runner, path)``. Of a pretraining the
    newest backbone lies beside them, as ``backbone.pth``.

    It replaces mmengine's ``CheckpointHook`` in
    :class:`~mmsnclr.engine.runner.ResumableRunner`.

    Args:
        *args: Those of mmengine's ``CheckpointHook``.
        minutes: If so many have passed at the end of an epoch since a checkpoint was written,
            one is written that goes with the next. ``None`` leaves it to ``interval``.
        **kwargs: Those of mmengine's ``CheckpointHook``.

    Raises:
        TypeError: If neither it nor the saving of a checkpoint has such an argument.
    """

    _random_states: list[dict] | None = None
    _saving: dict | None = None
    _resumed_states: list[dict] | None = None
    keep_ckpt_ids: deque[int]
    last_ckpt: str | None

    def __init__(self, *args: Any, minutes: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # mmengine would hand it down to the first checkpoint's saving.
        unknown = self.args.keys() - signature(Runner.save_checkpoint).parameters.keys()
        if unknown:
            raise TypeError(f'a checkpoint hook has no setting {", ".join(sorted(unknown))}')
        self.minutes = minutes

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the random states until training starts."""
        self._resumed_states = checkpoint.pop('random_states', None)

    def before_train(self, runner: Runner) -> None:
        """Remove what was left half-written, and restore the random states."""
        super().before_train(runner)
        self._written = time.monotonic()
        self._remove_old(runner)
        if is_main_process():
            for path in glob(f'{escape(self.out_dir)}/*.pth*{TEMPORARY}'):
                remove(path)
        states = self._resumed_states or []
        if runner.iter > 0 and len(states) == get_world_size():
            set_random_state(states[runner.rank])
        interval = _epoch_length(runner) if self.by_epoch else self.interval
        summed = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if interval and interval % summed:
            runner.logger.warning(
                f'Checkpoints come every {interval} iterations, gradients are summed over {summed}:'
                ' a sum that is not complete is not saved, so resume will not be exact'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what an exact resume needs."""
        checkpoint['random_states'] = self._random_states
        self._saving = checkpoint
        checkpoint['meta'].update(
            saved=time.time(),  # mmengine's is in local time
            run_id=getattr(runner, 'run_id', None),
            mmsnclr_version=__version__,
            world_size=get_world_size(),
            iters_per_epoch=_epoch_length(runner),
        )

    def after_train_epoch(self, runner: Runner) -> None:
        """Save a checkpoint if it is time for one."""
        super().after_train_epoch(runner)
        if self.by_epoch and self.minutes is not None:
            late = [time.monotonic() - self._written > 60 * self.minutes]
            broadcast_object_list(late)  # the clock of rank 0 decides
            if late[0]:
                self._save_between(runner, dict(epoch=runner.epoch + 1, iter=runner.iter))

    def save_interrupted(self, runner: Runner) -> None:
        """Save a checkpoint between two iterations, wherever the epoch is."""
        if not self.by_epoch:
            if self.last_ckpt != join(self.out_dir, self.filename_tmpl.format(runner.iter + 1)):
                self._save_checkpoint(runner)
            return
        self._save_between(runner, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def _save_between(self, runner: Runner, meta: dict) -> None:
        """Save between two regular checkpoints; the next of either kind takes its place."""
        name, hub = f'iter_{meta["iter"]}.pth', runner.message_hub
        before = hub.runtime_info.get('interruption_ckpt', '')
        hub.update_info('old_ckpts', [before])
        hub.update_info('interruption_ckpt', name)
        if self._save(runner, name, meta):
            self._remove_old(runner)
        else:
            hub.update_info('interruption_ckpt', before)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        hub, ids, old = runner.message_hub, [], []
        if self.max_keep_ckpts > 0:
            ids = list(dict.fromkeys([*self.keep_ckpt_ids, step]))
            old = [self.filename_tmpl.format(i) for i in ids[: -self.max_keep_ckpts]]
            hub.update_info('keep_ckpt_ids', ids[-self.max_keep_ckpts :])
        if 'interruption_ckpt' in hub.runtime_info:
            old.append(hub.get_info('interruption_ckpt'))
        hub.update_info('old_ckpts', old)  # saved, too, should this process end before they go
        if self._save(runner, self.filename_tmpl.format(step), meta):
            self.keep_ckpt_ids = deque(ids, max(self.max_keep_ckpts, 0))
            self._remove_old(runner)
        elif self.max_keep_ckpts > 0:
            hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best so far; the one before goes after that, and stays where it fails."""
        if not self.save_best:
            return
        hub, last = runner.message_hub, self.last_ckpt
        before = _best(hub.runtime_info)
        # mmengine removes first what it knows, and saves the last checkpoint again.
        self.last_ckpt = None
        self._know_best({})
        error = _try(super()._save_best_checkpoint, runner, metrics)
        self.last_ckpt = last
        after, failed = _best(hub.runtime_info), _on_any_rank(error)
        kept, gone = (before, after) if failed else (after, before)
        for name in after:
            hub.pop_info(name)
        for name, value in kept.items():
            hub.update_info(name, value)
        self._know_best(kept)
        if failed:
            why = error or 'see the other ranks'
            runner.logger.error(f'The best checkpoint could not be written: {why}. The old stays.')
        elif last is not None and after != before:  # so that it notes the best, too
            step = runner.epoch if self.by_epoch else runner.iter
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, step, meta)
        old, new = ({basename(v) for v in x.values() if isinstance(v, str)} for x in (gone, kept))
        for name in old - new if is_main_process() else ():
            # Not by its path, which in a copied folder is that of the first run.
            _try(self.file_backend.remove, join(self.out_dir, name))

    def _know_best(self, best: dict) -> None:
        names = self.key_indicators
        if len(names) == 1:
            self.best_ckpt_path = best.get('best_ckpt')
        else:
            self.best_ckpt_path_dict = {name: best.get(f'best_ckpt_{name}') for name in names}

    @master_only
    def _remove_old(self, runner: Runner) -> None:
        for name in runner.message_hub.runtime_info.get('old_ckpts', ()):
            if name and name != basename(self.last_ckpt or ''):
                with suppress(FileNotFoundError):
                    remove(join(self.out_dir, name))

    def _save(self, runner: Runner, name: str, meta: dict) -> bool:
        """Save on all ranks; whether all of them could."""
        path = join(self.out_dir, name)
        self._written = time.monotonic()
        last = runner.message_hub.runtime_info.get('last_ckpt')
        self.last_ckpt = path
        runner.message_hub.update_info('last_ckpt', path)
        self._random_states = all_gather_object(get_random_state())
        error = _try(runner.call_hook, 'save_rank_state', path=path)
        if not _on_any_rank(error):
            error = _try(self._save_file, runner, name, meta)
        if not _on_any_rank(error):
            return True
        self.last_ckpt = last
        runner.message_hub.update_info('last_ckpt', last)
        message = (
            f'The checkpoint {path} could not be written: {error or "see the other ranks"}. '
            f'The last good one is {last or "none"}'
        )
        if meta['iter'] >= runner.max_iters and last != path:
            raise OSError(message) from error
        runner.logger.error(f'{message}; training goes on.')
        return False

    def _save_file(self, runner: Runner, name: str, meta: dict) -> None:
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._write_beside(runner, name)

    @master_only
    def _write_beside(self, runner: Runner, name: str) -> None:
        """Write what the checkpoint is complete without."""
        record = join(runner.work_dir, 'last_checkpoint')
        files: dict[str, tuple] = {
            record: (self._write_record, record, join(self.out_dir, basename(name)))
        }
        if isinstance(unwrap(runner.model), BaseSelfSupervisor) and '://' not in self.out_dir:
            backbone = join(self.out_dir, BACKBONE)
            files[backbone] = (write_backbone, self._saving, name, backbone)
        self._saving = None
        for path, call in files.items():
            error = _try(*call)
            if error is not None:
                runner.logger.warning(f'{path} could not be written: {error}')

    @staticmethod
    def _write_record(record: str, path: str) -> None:
        with replacing(record) as temporary, open(temporary, 'w', encoding='utf-8') as file:
            file.write(path)


def _best(noted: dict) -> dict:
    """Scores and paths of the best checkpoints, by mmengine's names."""
    names = ('best_score', 'best_ckpt')
    return {name: value for name, value in noted.items() if name.startswith(names)}


def _epoch_length(runner: Runner) -> int | None:
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return len(runner.train_dataloader)
    return None


def _try(function: Callable, *args: Any, **kwargs: Any) -> OSError | None:
    try:
        function(*args, **kwargs)
    except OSError as error:
        return error
    return None


def _on_any_rank(error: OSError | None) -> bool:
    return bool(sum_over_ranks(torch.tensor(int(error is not None))))
