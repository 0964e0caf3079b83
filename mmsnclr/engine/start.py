"""From where a training starts, and whose run it is."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process, master_only
from mmengine.runner import Runner

from ..checkpoints import newest_checkpoint, write_text

# Set by torchrun and by Slurm when they start a run again.
_RESTARTS = ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')


def choose_start(runner: Runner, resume: bool, load_from: str | None) -> tuple[bool, str | None]:
    """Choose from what a training starts.

    With ``resume`` alone it is the newest checkpoint and, where there is none,
    the weights that the config calls ``start_from``, if it does.

    A run that was started again goes on from its own checkpoints alone, unless
    it was to resume another's.

    Args:
        runner: What is to train.
        resume: As the config says.
        load_from: Likewise.

    Returns:
        Both, as mmengine's Runner takes them.

    Raises:
        ValueError: If the work directory has checkpoints of a training, but no whole one.
    """
    # Only on the nodes where a process had died does torchrun count a restart.
    restarted = any(all_gather_object(any(int(os.environ.get(k) or 0) for k in _RESTARTS)))
    newest = resume and load_from is None
    if not (restarted or newest):
        return resume, load_from
    own = None if newest else _read_run_id(runner.work_dir)
    choice: list[Any] = [newest_checkpoint(runner.work_dir, own) if is_main_process() else None]
    broadcast_object_list(choice)
    path, damaged, foreign = choice[0]
    for name in foreign:
        runner.logger.info(f'{name} is passed over: it holds no training to go on with')
    for name, reason in damaged.items():
        runner.logger.warning(f'Not resumed from {name}: {reason}')
    if path is not None:
        return True, path
    if any(name.endswith('.pth') for name in damaged):
        raise ValueError(
            f'no checkpoint in {runner.work_dir} can be resumed from; move them away to '
            f'start from the beginning: {"; ".join(damaged.values())}'
        )
    if load_from is None:
        weights = runner.cfg.get('start_from')
        whence = weights or 'the beginning'
        runner.logger.info(f'No checkpoint in {runner.work_dir}: starting from {whence}.')
        return False, weights
    return resume, load_from


def _read_run_id(work_dir: str) -> str:
    with suppress(OSError):
        return Path(work_dir, 'run_id').read_text('utf-8')
    return ''


@master_only
def write_run_id(work_dir: str, run_id: str) -> None:
    """Tell whose checkpoints are a run's, should it be started again."""
    write_text(os.path.join(work_dir, 'run_id'), run_id)
