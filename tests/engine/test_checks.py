"""Machines that cannot train together are named before they begin."""

import re
import shutil
import socket
from types import SimpleNamespace

import pytest
from helpers import run_ranks, small_run
from mmengine.dist import get_rank

from mmsnclr.engine import build_runner, checks

SMALL = {'train_dataloader.batch_size': 8, 'train_cfg.max_epochs': 1, 'launcher': 'pytorch'}


def on_two_machines(digits, work_dir, spoil, **options):
    """Start a run whose second rank is on another machine, of which something is spoilt."""

    def run():
        runner = build_runner(small_run(digits, work_dir, **SMALL, **options))
        socket.gethostname = lambda: f'node{get_rank()}'
        if get_rank() == 1:
            spoil(runner)
        runner.train()

    return run_ranks(run, 2)


def test_machines_that_do_not_see_the_work_directory_are_named(digits, tmp_path, capfd):
    def spoil(runner):
        checks.Path.exists = lambda path: False

    assert on_two_machines(digits, tmp_path, spoil) == [1, 1]
    message = f'FileNotFoundError: node1 cannot see what node0 writes to {tmp_path}: set work_dir'
    assert capfd.readouterr().err.count(message) == 2
    assert not list(tmp_path.glob('.seen*')) and not list(tmp_path.glob('*.pth'))


def test_machines_with_other_images_are_named(digits, tmp_path, capfd):
    def spoil(runner):
        runner.train_dataloader.dataset.get_subset_(90)

    assert on_two_machines(digits, tmp_path, spoil) == [1, 1]
    assert capfd.readouterr().err.count('has 96 images on node0, but 90 on node1') == 2


def test_ranks_with_unequal_shares_are_refused(digits, tmp_path, capfd):
    shares = {'train_dataloader.dataset.indices': 95, 'train_dataloader.sampler.round_up': False}
    assert on_two_machines(digits, tmp_path, lambda runner: None, **shares) == [1, 1]
    assert capfd.readouterr().err.count('95 images do not divide among 2 ranks') == 2


def test_a_folder_that_nobody_can_write_to_is_for_the_checkpoints_to_say(digits, tmp_path):
    def touch(path):
        raise PermissionError(path)

    checks_of_both = pytest.MonkeyPatch()
    with checks_of_both.context() as patch:
        patch.setattr(checks.Path, 'touch', touch)
        assert on_two_machines(digits, tmp_path, lambda runner: None) == [0, 0]


@pytest.mark.parametrize(('batches', 'outcome'), [(3.9, 'refused'), (7.9, 'warned'), (8, 'silent')])
def test_too_little_shared_memory_is_said_at_the_start(
    digits, tmp_path, monkeypatch, batches, outcome
):
    free = batches * 16 * 2 * 3 * 32**2  # 4 workers, of which each prefetches 2 batches
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=free))
    runner = build_runner(
        small_run(
            digits,
            tmp_path,
            **{
                'train_dataloader.num_workers': 4,
                'train_dataloader.dataset.pipeline': [
                    dict(type='AugmentedViews', views=[dict(size=32)] * 2),
                    dict(type='PackInputs'),
                ],
            },
        )
    )
    if outcome == 'refused':
        with pytest.raises(OSError, match=r'1 ranks with 4 workers .*--shm-size.*num_workers'):
            runner.train()
        return
    checks.check_start(runner)
    (log,) = tmp_path.glob('*/*.log')
    assert bool(re.search('WARNING.*--shm-size', log.read_text())) == (outcome == 'warned')
