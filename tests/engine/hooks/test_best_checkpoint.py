"""The best checkpoint, which no failure costs."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from helpers import run_ranks
from interruptions import run_config
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook

from mmsnclr.checkpoints import load_checkpoint
from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks import AtomicCheckpointHook

SCORES = {1: 0.5, 2: 0.6, 3: 0.55, 4: 0.7}  # by epochs trained


class Validate(Hook):
    """Gives the model of each epoch its score, and notes which best ones are there then."""

    def __init__(self, names):
        self.names = names

    def judge(self, runner):
        if runner.epoch not in SCORES:
            return
        for hook in runner.hooks:
            if isinstance(hook, AtomicCheckpointHook):
                hook.after_val_epoch(runner, dict.fromkeys(self.names, SCORES[runner.epoch]))
        if runner.rank == 0:
            folder = Path(runner.work_dir)
            with open(folder / 'bests', 'a') as file:
                print(json.dumps(sorted(path.name for path in folder.glob('best_*'))), file=file)

    before_train_epoch = after_train = judge


def disk_full(path):
    raise OSError(errno.ENOSPC, 'No space left on device', path)


def disk_full_for_a_second(path):
    if Path(path.removesuffix('.tmp')).exists():
        disk_full(path)


def killed(path):
    os.kill(os.getpid(), signal.SIGKILL)


def train(digits, work_dir, names, file=None, fail=None, **options):
    """Train for 4 epochs; something happens when a file is to be written."""
    put = LocalBackend.put

    def put_but_one(backend, content, path):
        if file == Path(path).stem:
            fail(path)
        put(backend, content, path)

    LocalBackend.put = put_but_one
    checkpoint = dict(interval=1, max_keep_ckpts=1, save_best=list(names), rule='greater')
    options |= {'default_hooks.checkpoint': checkpoint, 'train_cfg.max_epochs': 4}
    runner = build_runner(run_config(digits, work_dir, **options))
    runner.register_hook(Validate(names))
    runner.train()


def bests(work_dir):
    return [json.loads(line) for line in (work_dir / 'bests').read_text().splitlines()]


@pytest.mark.parametrize(('ranks', 'names'), [(2, ['acc']), (1, ['acc', 'top'])])
def test_a_best_that_cannot_be_written_leaves_the_one_before(digits, tmp_path, ranks, names):
    file = f'best_{names[-1]}_epoch_2.pth'
    assert run_ranks(train, ranks, digits, tmp_path, names, file, disk_full) == [0] * ranks
    expected = [[f'best_{name}_epoch_{epoch}.pth' for name in names] for epoch in (1, 1, 3, 4)]
    assert bests(tmp_path) == expected
    logs = '\n'.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'The best checkpoint could not be written: [Errno 28] No space left' in logs


def test_a_run_that_is_killed_while_it_writes_the_best_has_the_one_before(digits, tmp_path):
    file = 'best_acc_epoch_2.pth'
    assert run_ranks(train, 1, digits, tmp_path, ['acc'], file, killed) == [-signal.SIGKILL]
    copy = shutil.copytree(tmp_path, tmp_path / 'copy')
    assert run_ranks(lambda: train(digits, copy, ['acc'], resume=True), 1) == [0]
    assert bests(copy) == [[f'best_acc_epoch_{epoch}.pth'] for epoch in (1, 2, 2, 4)]
    assert [path.name for path in copy.glob('epoch_*')] == ['epoch_4.pth']
    load_checkpoint(str(tmp_path / 'best_acc_epoch_1.pth'))


def test_a_run_ends_well_though_its_last_checkpoint_cannot_be_written_again(digits, tmp_path):
    again = ('epoch_4.pth', disk_full_for_a_second)
    assert run_ranks(train, 1, digits, tmp_path, ['acc'], *again) == [0]
    assert bests(tmp_path)[-1] == ['best_acc_epoch_4.pth']
    load_checkpoint(str(tmp_path / 'epoch_4.pth'))
    (log,) = tmp_path.glob('*/*.log')
    assert 'epoch_4.pth could not be written' in log.read_text()
