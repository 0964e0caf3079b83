"""Nothing is lost when a run is interrupted."""

import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, run_ranks, run_tool
from interruptions import MOMENTS, STEPS, Kill, Limit, assert_same_state, run_config, steps, train
from mmengine.hooks import Hook
from torch.distributed import TCPStore

from mmsnclr.checkpoints import load_checkpoint
from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks.preemption import PREEMPTED, PreemptionHook
from mmsnclr.engine.run import read_log

# Exit codes of a killed rank and of the others, which end with an error.
STOPPED = {-signal.SIGKILL, 1}


@pytest.fixture(scope='module')
def whole(digits, tmp_path_factory):
    """The uninterrupted runs, by number of processes."""
    runs = {}

    def run(ranks):
        if ranks not in runs:
            runs[ranks] = tmp_path_factory.mktemp(f'whole{ranks}')
            assert run_ranks(train, ranks, digits, runs[ranks]) == [0] * ranks
        return runs[ranks]

    return run


def assert_resumes_exactly(whole, digits, work_dir, ranks, kill):
    codes = run_ranks(train, ranks, digits, work_dir, kill)
    assert codes[kill.rank] == -signal.SIGKILL and set(codes) <= STOPPED
    assert run_ranks(lambda: train(digits, work_dir, resume=True), ranks) == [0] * ranks
    for rank in range(ranks):
        assert steps(work_dir, rank) == steps(whole(ranks), rank)
    last = f'iter_{STEPS}.pth'
    assert_same_state(work_dir / last, whole(ranks) / last)
    assert sorted(path.name for path in work_dir.glob('*_*.pth*')) == ['iter_16.pth', last]


@pytest.mark.parametrize(
    ('ranks', 'kill'),
    [(1, Kill(11, 'write')), (2, Kill(13, 'backward', rank=1))],
    ids=lambda x: getattr(x, 'moment', str(x)),
)
def test_a_killed_run_is_resumed_bit_for_bit(whole, digits, tmp_path, ranks, kill):
    assert_resumes_exactly(whole, digits, tmp_path, ranks, kill)


@pytest.mark.slow
@pytest.mark.parametrize('trial', range(20))
def test_a_run_killed_at_any_moment_is_resumed_bit_for_bit(whole, digits, tmp_path, trial):
    draw = random.Random(trial)
    ranks, moment = 1 + trial // 10, MOMENTS[trial % len(MOMENTS)]
    saving = moment in ('write', 'rename', 'record', 'remove')
    step = draw.randrange(8 if moment == 'remove' else 0, STEPS)
    kill = Kill(step, moment, rank=0 if saving else draw.randrange(ranks))
    assert_resumes_exactly(whole, digits, tmp_path, ranks, kill)


@pytest.mark.slow
def test_sets_that_differ_between_ranks_belong_to_the_checkpoint(digits, tmp_path):
    options = {'model.queue.sync': False}

    def run(work_dir, *hooks, **more):
        return run_ranks(lambda: train(digits, work_dir, *hooks, **options, **more), 2)

    assert run(tmp_path / 'whole') == [0, 0]
    assert set(run(tmp_path / 'parts', Kill(11, 'write'))) == STOPPED
    names = {path.name for path in (tmp_path / 'parts').glob('*.queue?')}
    assert names >= {'iter_8.pth.queue0', 'iter_8.pth.queue1'}
    assert run(tmp_path / 'parts', resume=True) == [0, 0]
    assert [path.name for path in (tmp_path / 'parts').glob('*.tmp')] == []
    for rank in range(2):
        assert steps(tmp_path / 'parts', rank) == steps(tmp_path / 'whole', rank)
    with pytest.raises(ValueError, match=r'2 candidate sets.*there are 1 .*resume with 2'):
        train(digits, tmp_path / 'parts', resume=True, **options)


EPOCHS = {'default_hooks.checkpoint': dict(max_keep_ckpts=1)}


def test_a_preempted_run_saves_within_the_epoch_leaves_and_goes_on(whole, digits, tmp_path):
    workers = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    signalled = Kill(8, 'die_with_workers', number=signal.SIGTERM)
    codes = run_ranks(lambda: train(digits, tmp_path, signalled, **EPOCHS, **workers), 1)
    assert codes == [PREEMPTED]
    assert sorted(path.name for path in tmp_path.glob('*_*.pth')) == ['epoch_1.pth', 'iter_9.pth']
    resumed = run_ranks(lambda: train(digits, tmp_path, resume=True, **EPOCHS, **workers), 1)
    assert resumed == [0]
    assert steps(tmp_path) == steps(whole(1))
    assert [path.name for path in tmp_path.glob('*_*.pth')] == ['epoch_3.pth']
    state = load_checkpoint(str(tmp_path / 'epoch_3.pth'))['state_dict']
    expected = load_checkpoint(str(whole(1) / f'iter_{STEPS}.pth'))['state_dict']
    assert all((state[name] == expected[name]).all() for name in expected)


def test_the_checkpoint_of_a_second_preemption_replaces_that_of_the_first(digits, tmp_path):
    for step in (7, 9):
        signalled = Kill(step, 'step_start', number=signal.SIGTERM)
        codes = run_ranks(
            lambda kill=signalled: train(digits, tmp_path, kill, resume=True, **EPOCHS), 1
        )
        assert codes == [PREEMPTED]
    assert {path.name for path in tmp_path.glob('*_*.pth')} == {'epoch_1.pth', 'iter_10.pth'}
    assert run_ranks(lambda: train(digits, tmp_path, resume=True, **EPOCHS), 1) == [0]
    assert [path.name for path in tmp_path.glob('*_*.pth')] == ['epoch_3.pth']


@pytest.mark.parametrize(('step', 'start'), [(3, 0), (9, 8)])
def test_a_run_that_is_started_again_goes_on_from_its_own_checkpoints(
    whole, digits, tmp_path, monkeypatch, step, start
):
    for path in whole(1).glob('*_*.pth'):
        shutil.copy2(path, tmp_path / f'old_{path.name}')
    shutil.copy(whole(1) / 'run_id', tmp_path)
    again = {'randomness.seed': 1}
    killed = run_ranks(lambda: train(digits, tmp_path, Kill(step, 'step_start'), **again), 1)
    assert killed == [-signal.SIGKILL]
    (tmp_path / 'record0.jsonl').unlink()
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    assert run_ranks(lambda: train(digits, tmp_path, **again), 1) == [0]
    assert [step['step'] for step in steps(tmp_path)] == list(range(start, STEPS))


def test_a_job_that_is_signalled_as_a_whole_saves_and_leaves(digits, tmp_path):
    options = {
        'default_hooks.preemption': dict(type='PreemptionHook', interval=2),
        'train_dataloader.num_workers': 1,
    }
    signalled = [Kill(2, 'die_with_workers', rank=rank, number=signal.SIGTERM) for rank in range(2)]
    codes = run_ranks(lambda: train(digits, tmp_path, *signalled, **options), 2)
    assert codes == [PREEMPTED, PREEMPTED]
    assert {path.name for path in tmp_path.glob('*_*.pth')} == {'iter_4.pth', 'iter_6.pth'}


def test_all_ranks_leave_after_the_same_step_when_one_is_signalled(digits, tmp_path):
    options = {'default_hooks.preemption': dict(type='PreemptionHook', interval=2)}
    signalled = Kill(5, 'forward', rank=1, number=signal.SIGUSR1)
    codes = run_ranks(lambda: train(digits, tmp_path, signalled, **options), 2)
    assert codes == [PREEMPTED, PREEMPTED]
    assert [len(steps(tmp_path, rank)) for rank in range(2)] == [8, 8]
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_8.pth')


class LoseStore(Hook):
    """Takes from rank 1 what it needs to reach the store."""

    priority = 'VERY_HIGH'

    def before_train(self, runner):
        if runner.rank == 1:
            del os.environ['MASTER_ADDR']


def test_ranks_that_cannot_agree_train_on_and_leave_signals_alone(digits, tmp_path):
    kill = Kill(7, 'step_start', rank=1, number=signal.SIGUSR1)
    codes = run_ranks(lambda: train(digits, tmp_path, LoseStore(), kill), 2)
    assert codes == [1, -signal.SIGUSR1]
    logs = '\n'.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert re.search(r'No signal will save .*1 ranks cannot reach the store.*MASTER_ADDR', logs)
    assert len(steps(tmp_path)) == 7


class CountKeys(Hook):
    """Counts what lies in the store after each step."""

    def before_train(self, runner):
        self.store = TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']))
        self.counts = []

    def after_train_iter(self, runner, *args, **kwargs):
        self.counts.append(self.store.num_keys())

    def after_train(self, runner):
        assert max(self.counts) < min(self.counts) + STEPS / 2


def test_agreements_leave_nothing_behind(digits, tmp_path):
    options = {'default_hooks.preemption': dict(type='PreemptionHook', interval=1)}
    assert run_ranks(lambda: train(digits, tmp_path, CountKeys(), **options), 2) == [0, 0]


class BreakStore(Hook):
    """Breaks rank 1's connection to the store."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 5:
            (hook,) = (hook for hook in runner.hooks if isinstance(hook, PreemptionHook))
            hook._store = SimpleNamespace(add=self.fail)

    def fail(self, *args):
        raise RuntimeError('Broken pipe')


@pytest.mark.slow
def test_a_store_that_is_lost_ends_no_training(digits, tmp_path, capfd):
    options = {
        'default_hooks.preemption': dict(type='PreemptionHook', interval=2),
        'env_cfg.dist_cfg.timeout': 15,
    }
    assert run_ranks(lambda: train(digits, tmp_path, BreakStore(), **options), 2) == [0, 0]
    assert '(PreemptionHook): the store does not answer' in capfd.readouterr().out


@pytest.mark.slow
def test_an_error_ends_the_run_though_workers_outlive_signals(digits, tmp_path):
    workers = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    began = time.monotonic()
    assert run_ranks(lambda: train(digits, tmp_path, Kill(2, 'fail'), **workers), 1) == [1]
    assert time.monotonic() - began < 30


class Fork(Hook):
    """Forks a process after a step and ends it, as mmdet's measure of VOC does."""

    def after_train_iter(self, runner, *args, **kwargs):
        for seconds in (0, 0.1) if runner.iter == 0 else ():  # before it has begun, and after
            process = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,))
            process.start()
            time.sleep(seconds)
            process.terminate()
            process.join(20)
            process.kill()
            assert process.exitcode == -signal.SIGTERM


def test_processes_that_a_measure_forks_end_when_they_are_told_to(digits, tmp_path):
    assert run_ranks(lambda: train(digits, tmp_path, Fork()), 1) == [0]


def test_a_dead_worker_ends_the_run_and_is_named(digits, tmp_path, capfd):
    options = {'train_dataloader.num_workers': 2, 'train_dataloader.prefetch_factor': 1}
    assert run_ranks(lambda: train(digits, tmp_path, Kill(2, 'worker'), **options), 1) == [1]
    assert re.search(r'DataLoader worker \(pid.*killed by signal: Killed', capfd.readouterr().err)


def test_too_little_shared_memory_is_named_with_what_helps(digits, tmp_path, capfd):
    options = {'train_dataloader.num_workers': 2, 'train_dataloader.prefetch_factor': 1}
    kill = Kill(2, 'worker', number=signal.SIGBUS)  # as the kernel does where /dev/shm is full
    assert run_ranks(lambda: train(digits, tmp_path, kill, **options), 1) == [1]
    *_, last = capfd.readouterr().err.strip().splitlines()
    assert re.search(r'shared memory.*--workers.*--shm-size=8g', last)


@pytest.mark.parametrize('kind', ['disk_full', pytest.param('unwritable', marks=pytest.mark.slow)])
def test_a_checkpoint_that_cannot_be_written_costs_nothing_else(digits, tmp_path, kind, whole):
    def run():
        train(digits, tmp_path, Limit(kind, first=6, end=9), Kill(10, 'step_start'))

    assert run_ranks(run, 1) == [-signal.SIGKILL]
    assert [path.name for path in tmp_path.glob('*_*.pth*')] == ['iter_4.pth']
    (log,) = tmp_path.glob('*/*.log')
    assert re.search(
        r'iter_8\.pth could not be written.*last good one is .*iter_4\.pth', log.read_text()
    )
    assert run_ranks(lambda: train(digits, tmp_path, resume=True), 1) == [0]
    assert steps(tmp_path) == steps(whole(1))


@pytest.mark.parametrize('backend', ['LocalVisBackend', 'TensorboardVisBackend'])
def test_a_log_that_cannot_be_written_costs_nothing_else(digits, tmp_path, backend):
    options = {'visualizer': dict(type='Visualizer', vis_backends=[dict(type=backend)])}

    def run():
        runner = build_runner(run_config(digits, tmp_path, **options))
        runner.register_hook(Limit('no_byte_left', first=6, end=9))
        runner.train()

    assert run_ranks(run, 1) == [0]
    assert {path.name for path in tmp_path.glob('*_*.pth')} == {'iter_16.pth', 'iter_18.pth'}
    if backend == 'LocalVisBackend':
        logged = [line['step'] for line in read_log(tmp_path)]
        assert {*range(1, 6), *range(11, 19)} <= set(logged)


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_cannot_be_written_fails(digits, tmp_path):
    def run():
        with pytest.raises(OSError, match=r'iter_18\.pth could not be written.*iter_16\.pth'):
            train(digits, tmp_path, Limit('disk_full', first=17, end=STEPS))

    assert run_ranks(run, 1) == [0]
    load_checkpoint(str(tmp_path / 'iter_16.pth'))


class Start(Hook):
    """Keeps what training starts from."""

    def before_train(self, runner):
        self.entries = {k: v.clone() for k, v in runner.model.queue.entries().items()}


@pytest.fixture(scope='module')
def left_by_two(digits, tmp_path_factory):
    """A run of two processes that ended after 8 of 18 steps."""
    folder = tmp_path_factory.mktemp('left')
    assert set(run_ranks(train, 2, digits, folder, Kill(8, 'step_start'))) == STOPPED
    return folder


def resumed_by_one(left_by_two, digits, tmp_path, **options):
    """The run continued by one process; its set is the one that the two shared."""
    work_dir = tmp_path / 'run'
    shutil.copytree(left_by_two, work_dir)
    start = Start()
    train(digits, work_dir, start, resume=True, **options)
    saved = load_checkpoint(str(left_by_two / 'iter_8.pth'))['state_dict']
    assert start.entries['enqueued'] == 8 * 16
    for name, value in start.entries.items():
        assert torch.equal(value, saved[f'queue.{name}'])
    log = '\n'.join(path.read_text() for path in work_dir.glob('*/*.log'))
    assert '1 processes go on with what 2 began' in log
    return steps(work_dir)


@pytest.mark.slow
def test_fewer_processes_with_the_same_total_batch_see_the_same_images(
    whole, left_by_two, digits, tmp_path
):
    done = resumed_by_one(left_by_two, digits, tmp_path)
    for step, *ranks in zip(done, steps(whole(2)), steps(whole(2), 1)):
        assert step['rate'] == ranks[0]['rate']
        if step['step'] >= 8:
            assert sorted(step['images']) == sorted(ranks[0]['images'] + ranks[1]['images'])


def test_fewer_processes_with_a_smaller_batch_go_on_at_the_same_share_of_the_schedule(
    left_by_two, digits, tmp_path
):
    done = resumed_by_one(left_by_two, digits, tmp_path, **{'train_dataloader.batch_size': 8})
    before = [
        image
        for rank in range(2)
        for step in steps(left_by_two, rank)[6:8]
        for image in step['images']
    ]
    rest = done[8:]  # of 36 steps, from the 17th
    assert [step['step'] for step in rest] == list(range(16, 36))
    for step in rest:
        cosine = (1 + math.cos(math.pi * step['step'] / (12 * 32))) / 2  # T_max: 32 epochs
        assert step['rate'] == pytest.approx(0.06 * cosine, rel=1e-6)
    second_epoch = before + [image for step in rest[:8] for image in step['images']]
    assert len(set(second_epoch)) == len(second_epoch) == 96


def command_line(digits, work_dir, kill):
    """A config file for the tools, and the environment in which it finds its hooks."""
    config = run_config(digits, work_dir)
    config.train_dataloader.batch_size = 8  # of two processes
    config.custom_hooks += [dict(type='Record'), kill]
    config.custom_imports.imports.append('interruptions')
    work_dir.mkdir(exist_ok=True)
    config.dump(work_dir / 'run.py')
    path = f'{ROOT / "tests"}:{os.environ.get("PYTHONPATH", "")}'
    return str(work_dir / 'run.py'), dict(PYTHONPATH=path)


@pytest.mark.slow
def test_torchrun_starts_a_dead_process_again_and_the_run_goes_on(whole, digits, tmp_path):
    kill = dict(type='Kill', step=9, moment='enqueue', rank=1, once=True)
    config, env = command_line(digits, tmp_path / 'run', kill)
    result = run_tool('tools/dist_train.sh', config, '2', MAX_RESTARTS='1', **env)
    assert result.returncode == 0, result.stderr
    for rank in range(2):
        assert steps(tmp_path / 'run', rank) == steps(whole(2), rank)
    assert_same_state(*(run / f'iter_{STEPS}.pth' for run in (tmp_path / 'run', whole(2))))
