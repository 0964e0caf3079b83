"""Ranks that die, freeze or drift apart are named."""

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from logging import getLogger
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import LIMIT, ROOT, launch_forked, run_ranks, small_run
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.distributed import barrier, init_process_group
from torch.distributed.launcher.api import LaunchConfig

from mmsnclr.checkpoints.writing import replacing
from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks.heartbeat import HeartbeatHook
from mmsnclr.engine.hooks.rank_drift import checksum

CONFIG = ROOT / 'configs/demo/snclr_digits.py'


@HOOKS.register_module()
class WritePidHook(Hook):
    """Tells that a rank trains, and which process it is; lets rank 1 drift away."""

    def __init__(self, drift=False):
        self.drift = drift

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 5:
            with replacing(f'{runner.work_dir}/pid{get_rank()}') as name:
                Path(name).write_text(str(os.getpid()))
        if runner.iter == 6 and self.drift and get_rank() == 1:
            runner.model.module.backbone.layer1[0].conv1.weight.data[0, 0, 0, 0] += 1e-3


class LongRun:
    """A run of two gloo processes under torch's elastic launcher, which prints to a file."""

    def __init__(self, config, printed):
        self.printed = printed
        printed.touch()
        self.process = multiprocessing.get_context('fork').Process(target=self._run, args=(config,))
        self.process.start()

    def _run(self, config):
        """What torchrun does."""
        os.setpgrp()
        for number in (1, 2):
            os.dup2(os.open(self.printed, os.O_WRONLY | os.O_APPEND), number)
        sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1) for number in (1, 2))
        settings = dict(min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=0)
        settings |= dict(rdzv_backend='c10d', rdzv_endpoint='localhost:0', monitor_interval=0.01)
        launch_forked(LaunchConfig(**settings), train)(config)

    def output(self):
        return self.printed.read_text()

    def wait_for(self, condition):
        """Wait until a condition holds; it fails where the run ended without it."""
        end = time.monotonic() + LIMIT
        while True:
            ended = not self.process.is_alive()
            if condition():
                return
            assert not ended and time.monotonic() < end, self.output()
            time.sleep(0.2)

    def wait_for_steps(self, count):
        """Wait until it has made some more steps."""
        end = self.output().count('Epoch(train)') + count
        self.wait_for(lambda: self.output().count('Epoch(train)') >= end)

    def exit_code(self):
        """Exit code of the launcher, once it has ended."""
        self.wait_for(lambda: not self.process.is_alive())
        return self.process.exitcode

    def kill(self):
        """Kill whatever is left of it."""
        with contextlib.suppress(ProcessLookupError):  # nothing is
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()


def train(config):
    """What a rank does."""
    torch.set_num_threads(1)
    build_runner(config).train()


@pytest.fixture
def start_two(digits, tmp_path):
    """Starts a long run of two gloo processes and waits until both train."""
    runs = []

    def start(**options):
        config = small_run(
            digits, tmp_path, **{'train_cfg.max_epochs': 10_000, 'log_level': 'INFO'}
        )
        config.launcher = 'pytorch'
        config.custom_hooks.append(dict(type='WritePidHook'))
        config.merge_from_dict(options)
        run = LongRun(config, tmp_path / 'printed.txt')
        runs.append(run)
        pids = [tmp_path / f'pid{rank}' for rank in range(2)]
        run.wait_for(lambda: all(path.exists() for path in pids))
        run.ranks = [int(path.read_text()) for path in pids]
        return run

    yield start
    for run in runs:
        run.kill()


@pytest.mark.parametrize('rank', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_frozen_rank_is_named_before_the_process_group_gives_up(start_two, rank):
    # All that decides it in days of training, 60 times as fast.
    timeout = Config.fromfile(CONFIG).env_cfg.dist_cfg.timeout / 60
    run = start_two(**{'env_cfg.dist_cfg.timeout': timeout})
    run.wait_for_steps(30)  # long enough for two beats, by which it is named
    os.kill(run.ranks[rank], signal.SIGSTOP)
    run.wait_for(lambda: 'gave no sign of life' in run.output())
    os.kill(run.ranks[rank], signal.SIGKILL)  # the launcher would wait for it
    assert run.exit_code() != 0
    assert re.search(rf'Rank {rank} \(step .*process {run.ranks[rank]}\) gave no', run.output())
    assert 'Traceback' not in run.output().partition('gave no sign of life')[0]


@pytest.mark.parametrize(('heartbeat', 'group'), [(900, 900), (600, None)])
def test_a_heartbeat_that_comes_too_late_is_refused(heartbeat, group):
    def run():
        init_process_group('gloo')
        with pytest.raises(ValueError, match=r'env_cfg\.dist_cfg\.timeout'):
            HeartbeatHook(heartbeat).before_train(_runner(group))
        barrier()  # the first to end takes with it what the others meet by

    assert run_ranks(run, 2) == [0, 0]


def test_a_run_that_was_suspended_goes_on(start_two):
    run = start_two(**{'default_hooks.heartbeat.timeout': 10})
    for rank in run.ranks:
        os.kill(rank, signal.SIGSTOP)
    time.sleep(13)
    for rank in run.ranks:
        os.kill(rank, signal.SIGCONT)
        time.sleep(0.2)
    run.wait_for_steps(30)
    assert 'gave no sign of life' not in run.output()


def _runner(timeout=None):
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(timeout=timeout))))
    return SimpleNamespace(iter=0, logger=getLogger(), cfg=cfg)


def test_ranks_that_are_through_are_not_missed_while_another_still_writes():
    def run():
        init_process_group('gloo')
        before = set(threading.enumerate())
        hook, runner = HeartbeatHook(timeout=4), _runner()
        hook.before_train(runner)
        assert set(threading.enumerate()) > before
        time.sleep(7 if get_rank() == 0 else 1)
        hook.after_run(runner)
        hook.leave_train(runner)
        # One in the store would abort the process when Python ends.
        assert set(threading.enumerate()) == before

    assert run_ranks(run, 2) == [0, 0]


def test_a_killed_rank_is_named_and_the_others_stop(start_two):
    run = start_two()
    os.kill(run.ranks[1], signal.SIGKILL)
    assert run.exit_code() != 0
    assert re.search(r'rank\s*: 1 .*\n\s*exitcode\s*: -9', run.output())


@pytest.mark.slow
def test_ranks_that_drift_apart_are_named(start_two):
    run = start_two(**{'default_hooks.rank_drift.interval': 4, 'custom_hooks.2.drift': True})
    assert run.exit_code() != 0
    assert 'Ranks have drifted apart by step 8: rank ' in run.output()
    assert 'in backbone.layer1.0.conv1.weight' in run.output()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
def test_a_checksum_tells_one_changed_bit_and_swapped_rows(dtype):
    values = (torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    changed = values.clone()
    changed[3, 2] += 1
    swapped = values[[1, 0, 2, 3, 4]]
    assert checksum(values) == checksum(values.clone())
    assert len({int(checksum(x)) for x in (values, changed, swapped)}) == 3


@pytest.mark.parametrize('found', [True, False])
def test_parameters_may_be_unused_where_the_config_allows_it(digits, tmp_path, found):
    options = {
        'model.backbone.out_indices': (2,),  # the fourth stage is computed for nothing
        'model.neck.in_channels': 64,
        'train_dataloader.batch_size': 8,
        'train_cfg.max_epochs': 1,
        'launcher': 'pytorch',
        'find_unused_parameters': found,
    }
    codes = run_ranks(lambda: build_runner(small_run(digits, tmp_path, **options)).train(), 2)
    assert codes == ([0, 0] if found else [1, 1])
