"""Ranks that die, freeze or drift apart are named."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from logging import getLogger
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import LIMIT, ROOT, free_port, run_ranks, small_run
from mmengine.config import Config
from mmengine.dist import get_rank
from torch.distributed import init_process_group

from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks.heartbeat import HeartbeatHook
from mmsnclr.engine.hooks.rank_drift import checksum

CONFIG = ROOT / 'configs/demo/snclr_digits.py'
DRIFT = """
from pathlib import Path
import os
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class WritePidHook(Hook):
    def __init__(self, drift=False):
        self.drift = drift

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 5:
            Path(runner.work_dir, f'new{get_rank()}').write_text(str(os.getpid()))
            Path(runner.work_dir, f'new{get_rank()}').rename(f'{runner.work_dir}/pid{get_rank()}')
        if runner.iter == 6 and self.drift and get_rank() == 1:
            runner.model.module.backbone.layer1[0].conv1.weight.data[0, 0, 0, 0] += 1e-3
"""


class LongRun:
    """A run of two gloo processes, which prints to a file."""

    def __init__(self, command, env, folder):
        self.printed, self.config = folder / 'printed.txt', folder / 'config.py'
        with self.printed.open('w') as file:
            self.process = subprocess.Popen(command, env=env, stdout=file, stderr=file)

    def output(self):
        return self.printed.read_text()

    def wait_for(self, condition):
        """Wait until a condition holds; it fails where the run ended without it."""
        end = time.monotonic() + LIMIT
        while True:
            ended = self.process.poll() is not None
            if condition():
                return
            assert not ended and time.monotonic() < end, self.output()
            time.sleep(0.2)

    def wait_for_steps(self, count):
        """Wait until it has made some more steps."""
        end = self.output().count('Epoch(train)') + count
        self.wait_for(lambda: self.output().count('Epoch(train)') >= end)

    def exit_code(self):
        """Exit code of torchrun, once it has ended."""
        self.wait_for(lambda: self.process.poll() is not None)
        return self.process.returncode

    def kill(self):
        """Kill whatever is left of it: torchrun starts each rank in a process group of its own."""
        self.process.kill()
        self.process.wait()
        for path in Path('/proc').glob('[0-9]*/cmdline'):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if os.fsencode(self.config) in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.fixture
def start_two(digits, tmp_path):
    """Starts a long run of two gloo processes and waits until both train."""
    runs = []

    def start(*options):
        (tmp_path / 'drift.py').write_text(DRIFT)
        config = small_run(
            digits, tmp_path, **{'train_cfg.max_epochs': 10_000, 'log_level': 'INFO'}
        )
        config.custom_hooks.append(dict(type='WritePidHook'))
        config.custom_imports.imports.append('drift')
        config.dump(tmp_path / 'config.py')
        command = [str(ROOT / 'tools/dist_train.sh'), str(tmp_path / 'config.py'), '2']
        command += ['--work-dir', str(tmp_path), '--cfg-options', *options, 'log_level=INFO']
        env = {'OMP_NUM_THREADS': '1', 'PORT': str(free_port()), 'PYTHON': sys.executable}
        env['PYTHONPATH'] = os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')])
        run = LongRun(command, os.environ | env, tmp_path)
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
    run = start_two(f'env_cfg.dist_cfg.timeout={timeout}')
    run.wait_for_steps(30)  # long enough for two beats, by which it is named
    os.kill(run.ranks[rank], signal.SIGSTOP)
    run.wait_for(lambda: 'gave no sign of life' in run.output())
    os.kill(run.ranks[rank], signal.SIGKILL)  # torchrun would wait for it
    assert run.exit_code() != 0
    assert re.search(rf'Rank {rank} \(step .*process {run.ranks[rank]}\) gave no', run.output())
    assert 'Traceback' not in run.output().partition('gave no sign of life')[0]


@pytest.mark.parametrize(('heartbeat', 'group'), [(900, 900), (600, None)])
def test_a_heartbeat_that_comes_too_late_is_refused(heartbeat, group):
    def run():
        init_process_group('gloo')
        with pytest.raises(ValueError, match=r'env_cfg\.dist_cfg\.timeout'):
            HeartbeatHook(heartbeat).before_train(_runner(group))

    assert run_ranks(run, 2) == [0, 0]


def test_a_run_that_was_suspended_goes_on(start_two):
    run = start_two('default_hooks.heartbeat.timeout=10')
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
    run = start_two('default_hooks.rank_drift.interval=4', 'custom_hooks.2.drift=True')
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
