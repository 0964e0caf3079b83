"""Runs on the device: precision, skipped steps, resuming, and what steps wait for."""

import sys
from shutil import which

import pytest
import torch
import torch.distributed as dist
from helpers import ROOT, free_port, small_run
from interruptions import Kill, assert_same_state, train
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper

from mmsnclr.engine import build_runner
from mmsnclr.engine.cost import synthetic_peers


class Losses(Hook):
    """Records every loss."""

    priority = 'VERY_HIGH'

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss']))


class Overflow(Hook):
    """Makes float16's gradients overflow in one step, and puts NaN into an image in another."""

    def __init__(self, overflow, poison):
        self.overflow, self.poison, self.scales = overflow, poison, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.scaled = isinstance(runner.optim_wrapper, AmpOptimWrapper)
        if self.scaled:
            scaler = runner.optim_wrapper.loss_scaler
            if runner.iter == self.overflow:
                scaler.load_state_dict(scaler.state_dict() | dict(scale=2.0**100))
            self.scales.append(scaler.get_scale())
        if runner.iter == self.poison:
            self.before = [p.clone() for p in runner.model.parameters()]
            self.handle = runner.model.backbone.register_forward_pre_hook(self._spoil)

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.poison:
            self.handle.remove()
            pairs = zip(self.before, runner.model.parameters())
            self.nothing_moved = all(torch.equal(a, b) for a, b in pairs)

    def _spoil(self, module, inputs):
        inputs[0][3] = float('nan')


class Begin(Hook):
    """Begins to note where the host waits, before all other hooks."""

    def __init__(self, waits):
        self.waits = waits

    def before_train_iter(self, runner, *args, **kwargs):
        self.waits.__enter__()


class End(Hook):
    """Ends it, after all other hooks; where it waited in each step."""

    def __init__(self, waits):
        self.waits, self.where = waits, []

    def after_train_iter(self, runner, *args, **kwargs):
        self.waits.__exit__(None, None, None)
        self.where.append(self.waits.where)


# On a CPU tests/engine asks the same.
long = pytest.mark.parametrize(
    'device',
    [pytest.param('cpu', marks=pytest.mark.slow), pytest.param('cuda', marks=pytest.mark.gpu)],
    indirect=True,
)


@pytest.fixture
def benchmark_of_a_step(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import gpu

    yield gpu
    for name in ('gpu', 'pipeline', 'compare'):
        sys.modules.pop(name, None)


@long
def test_fifty_steps_skip_what_is_not_finite_and_leave_overflows_to_the_scaler(
    device, digits, tmp_path
):
    precision = 'fp16' if device == 'cuda' else 'bf16'
    options = {'optim_wrapper.precision': precision, 'train_cfg.max_epochs': 9}
    config = small_run(digits, tmp_path, **options)
    config.optim_wrapper.type = 'MixedPrecisionOptimWrapper'
    runner, record, spoil = build_runner(config), Losses(), Overflow(overflow=20, poison=30)
    runner.register_hook(record)
    runner.register_hook(spoil, priority='VERY_LOW')
    runner.train()
    assert len(record.losses) == 54 and spoil.nothing_moved
    assert runner.message_hub.get_info('skipped_steps') == 1
    assert [step for step, loss in enumerate(record.losses) if not loss < 100] == [30]
    assert spoil.scaled == (device == 'cuda')
    if spoil.scaled:
        assert spoil.scales[21] == spoil.scales[20] / 2
        assert spoil.scales[31] == spoil.scales[30]  # a bad image says nothing about the scale


@pytest.mark.parametrize(('precision', 'reads'), [('fp32', 1), ('bf16', 1), ('fp16', 2)])
def test_a_step_waits_once_to_know_whether_to_step(
    device, digits, tmp_path, precision, reads, benchmark_of_a_step
):
    if (device, precision) == ('cpu', 'fp16'):
        pytest.skip('a CPU has no float16 training')
    options = {'optim_wrapper.precision': precision, 'default_hooks.logger.interval': 6}
    config = small_run(digits, tmp_path, **options)
    config.optim_wrapper.type = 'MixedPrecisionOptimWrapper'
    config.optim_wrapper.optimizer = dict(type='TIMMLars', lr=0.1, weight_decay=1e-6)
    config.optim_wrapper.paramwise_cfg = dict(norm_decay_mult=0.0, bias_decay_mult=0.0)
    runner, waits = build_runner(config), benchmark_of_a_step.Waits()
    benchmark_of_a_step.use_sync_bn(runner.model)
    noted = End(waits)
    runner.register_hook(Begin(waits), priority='HIGHEST')
    runner.register_hook(noted, priority='LOWEST')
    with synthetic_peers(32):
        runner.train()
    unlogged = [where for step, where in enumerate(noted.where) if step > 6 and (step + 1) % 6]
    assert len(unlogged) == 9
    if device == 'cuda':
        assert {len(where) for where in unlogged} == {reads}, unlogged[:3]


@pytest.fixture
def group_of_one(monkeypatch):
    """What a launcher leaves in the environment of a single process."""
    settings = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1')
    for name, value in (settings | dict(MASTER_PORT=str(free_port()))).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # which torch wants for equal sums
    yield
    dist.destroy_process_group()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@long
def test_a_run_that_was_ended_and_resumed_is_bit_equal(device, digits, tmp_path, group_of_one):
    options = {'launcher': 'pytorch', 'randomness.deterministic': True}
    train(digits, tmp_path / 'whole', **options)
    assert dist.get_backend() == ('nccl' if device == 'cuda' else 'gloo')
    with pytest.raises(RuntimeError, match='an error of the training'):
        train(digits, tmp_path / 'parts', Kill(10, 'fail'), **options)
    train(digits, tmp_path / 'parts', resume=True, **options)
    assert_same_state(tmp_path / 'whole/iter_18.pth', tmp_path / 'parts/iter_18.pth')


@pytest.mark.parametrize(
    'options',
    [
        {'model.channels_last': True},
        {'env_cfg.cudnn_benchmark': True},
        pytest.param({'model.compile_backbone': True}, id='compile'),
    ],
    ids=str,
)
def test_layout_and_compilation_change_rounding_alone(device, digits, tmp_path, options):
    compiled = 'model.compile_backbone' in options
    if compiled and (device == 'cpu' or not (which('c++') or which('g++'))):
        pytest.skip('compiled on a CPU by tests/engine/test_training.py')
    settings = {'train_cfg.max_epochs': 2, 'train_dataloader.batch_size': 20}  # the last has 16
    settings['train_dataloader.drop_last'] = False
    losses = []
    for number, extra in enumerate(({}, options)):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        runner, record = (
            build_runner(small_run(digits, tmp_path / str(number), **settings, **extra)),
            Losses(),
        )
        runner.register_hook(record)
        runner.train()
        losses.append(record.losses)
    assert len(losses[0]) == 10
    assert losses[0][:2] == pytest.approx(losses[1][:2], rel=1e-2)
    # Rounding changes who is a neighbour, and grows from step to step.
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    if compiled:  # both encoders, once for a full batch and once for any other size
        assert torch._dynamo.utils.counters['stats']['unique_graphs'] <= 4
