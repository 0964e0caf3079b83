"""A step with NaN or inf is skipped, reported and changes nothing."""

import math
import re

import pytest
import torch
from helpers import run_ranks, run_with
from interruptions import train
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from mmsnclr.models.dist import unwrap


@HOOKS.register_module()
class PoisonHook(Hook):
    """Puts NaN into an image of some steps, as both encoders or the online one alone see it."""

    def __init__(self, steps, rank=0, keys=True):
        self.steps, self.rank, self.keys = steps, rank, keys

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        def poison(module, inputs):
            inputs[0][3] = float('nan')

        self.handles = []
        if runner.iter in self.steps and runner.rank == self.rank:
            model = unwrap(runner.model)
            networks = (model.backbone, model.momentum_encoder[0])[: 1 + self.keys]
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


class KeepStateHook(Hook):
    """Copies everything that a step changes, before and after some iterations."""

    priority = 'VERY_LOW'

    def __init__(self, first, last):
        self.first, self.last = first, last

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.first:
            self.before = everything(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.last:
            self.after = everything(runner)

    def assert_unchanged(self):
        assert self.before.keys() == self.after.keys()
        for name, value in self.before.items():
            assert torch.equal(value, self.after[name]), name


def everything(runner):
    state = dict(runner.model.state_dict())
    for number, values in runner.optim_wrapper.optimizer.state_dict()['state'].items():
        state |= {f'optimizer.{number}.{k}': v for k, v in values.items() if torch.is_tensor(v)}
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize(
    'optimizer', [dict(type='SGD', lr=0.1, momentum=0.9), dict(type='TIMMLars', lr=0.1)]
)
def test_a_step_with_nan_changes_nothing(digits, tmp_path, optimizer):
    runner = run_with(
        digits,
        tmp_path,
        [dict(type='PoisonHook', steps=[8])],
        **{'optim_wrapper.optimizer': dict(_delete_=True, **optimizer)},
    )
    kept = KeepStateHook(8, 8)
    runner.register_hook(kept)
    runner.train()
    kept.assert_unchanged()
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    assert runner.model.queue._enqueued == 16 * (3 * 6 - 1)


def test_under_a_loss_scaler_a_step_with_nan_changes_nothing_either(digits, tmp_path):
    hooks = [dict(type='PoisonHook', steps=[8])]
    runner = run_with(digits, tmp_path, hooks, **{'optim_wrapper.type': 'ScaledOptimWrapper'})
    kept = KeepStateHook(8, 8)
    runner.register_hook(kept)
    runner.train()
    kept.assert_unchanged()
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


def test_under_a_loss_scaler_ranks_skip_together_too(digits, tmp_path):
    # Only rank 1's loss is NaN: its keys, which rank 0 has too, are not.
    hook, options = (
        PoisonHook([7], rank=1, keys=False),
        {'optim_wrapper.type': 'ScaledOptimWrapper'},
    )
    assert run_ranks(lambda: train(digits, tmp_path, hook, **options), 2) == [0, 0]
    assert len(list(tmp_path.glob('non_finite_iter8_*'))) == 2


def test_too_many_skipped_steps_end_the_run(digits, tmp_path):
    options = {'default_hooks.non_finite.max_skipped': 2}
    runner = run_with(digits, tmp_path, [dict(type='PoisonHook', steps=range(18))], **options)
    with pytest.raises(FloatingPointError, match=r'max_skipped=2 .* optim_wrapper.optimizer.lr'):
        runner.train()
    assert runner.iter == 2


def test_accumulated_gradients_are_dropped_together(digits, tmp_path):
    options = {'optim_wrapper.accumulative_counts': 3}
    runner = run_with(digits, tmp_path, [dict(type='PoisonHook', steps=[7])], **options)
    kept = KeepStateHook(6, 8)
    runner.register_hook(kept)
    runner.train()
    kept.assert_unchanged()
    assert runner.model.queue._enqueued == 16 * (3 * 6 - 3)
    paths = (tmp_path / 'non_finite_iter9_rank0.txt').read_text().split()
    assert len(paths) == 3 * 16
