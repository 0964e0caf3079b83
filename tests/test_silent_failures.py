"""Nothing goes wrong in silence: bad numbers, drifting or missing ranks, damaged images."""

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from logging import getLogger
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import LIMIT, ROOT, free_port, run_ranks, small_run
from interruptions import train
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from torch.distributed import init_process_group

from mmsnclr.engine import UnreadableImagesHook, build_runner
from mmsnclr.engine.hooks.heartbeat import HeartbeatHook
from mmsnclr.engine.hooks.neighbor_queue import unwrap
from mmsnclr.engine.hooks.rank_drift import checksum

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
VIEWS = [
    dict(type='AugmentedViews', views=[dict(size=32), dict(size=32)]),
    dict(type='PackInputs'),
]


@HOOKS.register_module()
class PoisonHook(Hook):
    """Puts NaN into an image of some steps."""

    def __init__(self, steps, rank=0):
        self.steps, self.rank = steps, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        def poison(module, inputs):
            inputs[0][3] = float('nan')

        self.handles = []
        if runner.iter in self.steps and runner.rank == self.rank:
            model = unwrap(runner.model)
            networks = (model.backbone, model.momentum_encoder[0])
            self.handles = [network.register_forward_pre_hook(poison) for network in networks]

    def after_train_iter(self, runner, *args, **kwargs):
        for handle in self.handles:
            handle.remove()


@HOOKS.register_module()
class PoisonGradientHook(Hook):
    """Spoils the gradient of one weight in one step."""

    def __init__(self, step, factor):
        self.step, self.factor = step, factor

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step:
            weight = runner.model.head.predictor.fc0.weight
            self.handle = weight.register_hook(lambda gradient: gradient * self.factor)

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.step:
            self.handle.remove()


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(AmpOptimWrapper):
    """mmengine's, which insists on CUDA, with torch's loss scaler for a CPU."""

    def __init__(self, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu')
        self._scale_update_param = None

    optim_context = OptimWrapper.optim_context


@HOOKS.register_module()
class KeepStateHook(Hook):
    """Copies everything that a step changes, before and after a step."""

    priority = 'VERY_LOW'

    def __init__(self, step):
        self.step = step

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.step:
            self.before = everything(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.step:
            self.after = everything(runner)


def everything(runner):
    state = dict(runner.model.state_dict())
    for number, values in runner.optim_wrapper.optimizer.state_dict()['state'].items():
        state |= {f'optimizer.{number}.{k}': v for k, v in values.items() if torch.is_tensor(v)}
    return {name: value.clone() for name, value in state.items()}


def run_with(digits, tmp_path, hooks, **options):
    config = small_run(digits, tmp_path, **options)
    config.custom_hooks += hooks
    return build_runner(config)


@pytest.mark.parametrize(
    'optimizer', [dict(type='SGD', lr=0.1, momentum=0.9), dict(type='TIMMLars', lr=0.1)]
)
def test_a_step_with_nan_changes_nothing(digits, tmp_path, optimizer):
    hooks = [dict(type='PoisonHook', steps=[8]), dict(type='KeepStateHook', step=8)]
    runner = run_with(
        digits, tmp_path, hooks, **{'optim_wrapper.optimizer': dict(_delete_=True, **optimizer)}
    )
    runner.train()
    kept = next(hook for hook in runner.hooks if isinstance(hook, KeepStateHook))
    assert kept.before.keys() == kept.after.keys()
    for name, value in kept.before.items():
        assert torch.equal(value, kept.after[name]), name
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    assert runner.model.queue._enqueued == 16 * (3 * 6 - 1)


def test_under_a_loss_scaler_a_step_with_nan_changes_nothing_either(digits, tmp_path):
    hooks = [dict(type='PoisonHook', steps=[8]), dict(type='KeepStateHook', step=8)]
    runner = run_with(digits, tmp_path, hooks, **{'optim_wrapper.type': 'ScaledOptimWrapper'})
    runner.train()
    kept = next(hook for hook in runner.hooks if isinstance(hook, KeepStateHook))
    for name, value in kept.before.items():
        assert torch.equal(value, kept.after[name]), name
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    assert runner.optim_wrapper.loss_scaler.get_scale() == 65536
    assert (tmp_path / 'non_finite_iter9_rank0.txt').is_file()


def test_an_overflow_is_the_loss_scalers(digits, tmp_path):
    hooks = [dict(type='PoisonGradientHook', step=8, factor=math.inf)]
    runner = run_with(digits, tmp_path, hooks, **{'optim_wrapper.type': 'ScaledOptimWrapper'})
    runner.train()
    assert runner.optim_wrapper.loss_scaler.get_scale() == 65536 / 2
    assert not list(tmp_path.glob('non_finite*'))
    assert runner.model.queue._enqueued == 16 * 3 * 6


@pytest.mark.parametrize(
    ('hook', 'options', 'where', 'first'),
    [
        (PoisonHook([7]), {}, 'features of rank 0', 'backbone.conv1.weight'),
        (
            PoisonHook([7]),
            {'optim_wrapper.accumulative_counts': 3},
            'features of rank 0',
            'backbone.conv1.weight',
        ),
        (
            PoisonGradientHook(8, math.nan),
            {'optim_wrapper.clip_grad': dict(max_norm=1.0)},
            'no loss',
            'head.predictor.fc0.weight',
        ),
    ],
    ids=['one batch', 'accumulation', 'clipping'],
)
def test_a_skipped_step_is_reported_with_its_images(
    digits, tmp_path, capsys, hook, options, where, first
):
    runner = run_with(digits, tmp_path, [], **options)
    runner.register_hook(hook)
    runner.train()
    log = ''.join(capsys.readouterr())
    (path,) = tmp_path.glob('non_finite_iter*_rank0.txt')
    assert re.search(rf'Step \d+: NaN or inf in (the )?{where} and in the gradients of \d+', log)
    assert f'the first {first}' in log
    paths = path.read_text().split()
    batches = options.get('optim_wrapper.accumulative_counts', 1)
    assert len(paths) == 16 * batches and all(path.endswith('.png') for path in paths)


def test_the_rank_with_the_bad_image_is_named(digits, tmp_path):
    assert run_ranks(lambda: train(digits, tmp_path, PoisonHook([7], rank=1)), 2) == [0, 0]
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'Step 8: NaN or inf in the features of rank 1 and' in log
    assert {path.name[-9:] for path in tmp_path.glob('non_finite_iter8_*')} == {
        'rank0.txt',
        'rank1.txt',
    }


def test_too_many_skipped_steps_end_the_run(digits, tmp_path):
    options = {'default_hooks.non_finite.max_skipped': 2}
    runner = run_with(digits, tmp_path, [dict(type='PoisonHook', steps=range(18))], **options)
    with pytest.raises(FloatingPointError, match=r'max_skipped=2 .* optim_wrapper.optimizer.lr'):
        runner.train()
    assert runner.iter == 2


def test_accumulated_gradients_are_dropped_together(digits, tmp_path):
    options = {'optim_wrapper.accumulative_counts': 3}
    runner = run_with(digits, tmp_path, [dict(type='PoisonHook', steps=[7])], **options)
    runner.train()
    assert runner.model.queue._enqueued == 16 * (3 * 6 - 3)
    paths = (tmp_path / 'non_finite_iter9_rank0.txt').read_text().split()
    assert len(paths) == 3 * 16


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
def test_a_checksum_tells_one_changed_bit_and_swapped_rows(dtype):
    values = (torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    changed = values.clone()
    changed[3, 2] += 1
    swapped = values[[1, 0, 2, 3, 4]]
    assert checksum(values) == checksum(values.clone())
    assert len({int(checksum(x)) for x in (values, changed, swapped)}) == 3


@pytest.mark.parametrize('num_workers', [0, 2])
def test_damaged_and_vanished_images_are_replaced_and_listed(digits, tmp_path, num_workers):
    data = tmp_path / 'data'
    shutil.copytree(digits / 'unlabelled', data)
    runner = run_with(
        data.parent,
        tmp_path / 'run',
        [],
        **{
            'train_dataloader.dataset.data_root': str(data),
            'train_dataloader.dataset.pipeline': VIEWS,
            'train_dataloader.num_workers': num_workers,
        },
    )
    bad = sorted(path for path in data.rglob('*.png'))[:3]
    runner.train_dataloader.dataset.full_init()
    bad[0].unlink()
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    bad[2].write_text('not an image')
    runner.train()
    listed = (tmp_path / 'run' / 'unreadable_images_rank0.csv').read_text()
    assert all(str(path) in listed for path in bad)
    assert runner.model.queue._enqueued == 16 * 3 * 6


def test_too_many_damaged_images_end_the_run(digits, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(digits / 'unlabelled', data)
    options = {
        'train_dataloader.dataset.data_root': str(data),
        'train_dataloader.dataset.pipeline': VIEWS,
    }
    runner = run_with(data.parent, tmp_path / 'run', [], **options)
    for path in sorted(data.rglob('*.png'))[::2]:
        path.write_bytes(b'')
    with pytest.raises(RuntimeError, match=r'could not be read, more than .*max_share=0.01'):
        runner.train()


def test_a_list_that_cannot_be_written_is_said_once_and_ends_nothing(digits, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(digits / 'unlabelled', data)
    options = {
        'train_dataloader.dataset.data_root': str(data),
        'train_dataloader.dataset.pipeline': VIEWS,
    }
    runner = run_with(data.parent, tmp_path / 'run', [], **options)
    for path in sorted(data.rglob('*.png'))[:2]:
        path.write_bytes(b'')
    (tmp_path / 'run' / 'unreadable_images_rank0.csv').mkdir()
    runner.train()
    (log,) = (tmp_path / 'run').rglob('*.log')
    assert log.read_text().count('Another image takes the place of') > 2
    assert log.read_text().count('cannot be listed in') == 1


def test_failures_of_the_last_batch_are_listed(digits, tmp_path):
    runner = run_with(digits, tmp_path, [], **{'train_dataloader.dataset.pipeline': VIEWS})
    hook = next(hook for hook in runner.hooks if isinstance(hook, UnreadableImagesHook))
    hook.before_train(runner)
    hook._failures.put(('late.png', 'it is cut'))
    while hook._failures.empty():  # a thread puts it in
        time.sleep(0.01)
    hook.after_train(runner)
    assert 'late.png' in (tmp_path / 'unreadable_images_rank0.csv').read_text()
    assert hook.count == 1


def test_a_resumed_run_goes_on_counting_unreadable_images(digits, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(digits / 'unlabelled', data)
    sorted(data.rglob('*.png'))[0].write_bytes(b'')
    counts = []
    for epochs in (2, 3):
        options = {
            'train_dataloader.dataset.data_root': str(data),
            'train_dataloader.dataset.pipeline': VIEWS,
            'default_hooks.unreadable_images.max_share': 1.0,
            'train_cfg.max_epochs': epochs,
            'resume': bool(counts),
        }
        runner = run_with(data.parent, tmp_path / 'run', [], **options)
        runner.train()
        hook = next(hook for hook in runner.hooks if isinstance(hook, UnreadableImagesHook))
        counts.append((hook.count, hook.seen))
    assert counts[0][0] >= 2 and counts[1][0] > counts[0][0]
    assert [seen for _, seen in counts] == [16 * 6 * 2, 16 * 6 * 3]
    listed = (tmp_path / 'run' / 'unreadable_images_rank0.csv').read_text().splitlines()
    assert len(listed) == counts[1][0]


@pytest.mark.parametrize('rank', [0, 1])
def test_a_frozen_rank_is_named_and_the_others_stop(start_two, rank):
    run = start_two('default_hooks.heartbeat.timeout=10')
    run.wait_for_steps(30)  # long enough for two beats, by which it is named
    os.kill(run.ranks[rank], signal.SIGSTOP)
    run.wait_for(lambda: 'gave no sign of life' in run.output())
    os.kill(run.ranks[rank], signal.SIGKILL)  # torchrun would wait for it
    assert run.exit_code() != 0
    assert re.search(rf'Rank {rank} \(step .*process {run.ranks[rank]}\) gave no', run.output())


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


def test_ranks_that_are_through_are_not_missed_while_another_still_writes():
    def run():
        init_process_group('gloo')
        hook, runner = HeartbeatHook(timeout=4), SimpleNamespace(iter=0, logger=getLogger())
        hook.before_train(runner)
        time.sleep(7 if get_rank() == 0 else 1)
        hook.after_run(runner)
        hook.leave_train(runner)

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
