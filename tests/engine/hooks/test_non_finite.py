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
from torch.utils._python_dispatch import TorchDispatchMode

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
    options = {'default_hooks.non_finite.max_skipped': 2, 'default_hooks.non_finite.window': 3}
    runner = run_with(digits, tmp_path, [dict(type='PoisonHook', steps=range(18))], **options)
    with pytest.raises(FloatingPointError, match=r'max_skipped=2: .*optim_wrapper.optimizer.lr'):
        runner.train()
    assert runner.iter == 2


@pytest.mark.parametrize('interrupted', [False, True])
def test_skipped_steps_count_in_a_window(digits, tmp_path, interrupted):
    options = {'default_hooks.non_finite.max_skipped': 2, 'default_hooks.non_finite.window': 5}
    hooks = [dict(type='PoisonHook', steps=[0, 4, 5, 7])]
    if interrupted:
        run_with(digits, tmp_path, hooks, **options, **{'train_cfg.max_epochs': 1}).train()
        options |= dict(resume=True, load_from=str(tmp_path / 'epoch_1.pth'))
    runner = run_with(digits, tmp_path, hooks, **options)
    with pytest.raises(FloatingPointError, match=r'3 of the last NonFiniteHook.window=5 were'):
        runner.train()
    assert runner.iter == 7  # 4, 5 and 7: the first no longer counts


def test_checkpoints_that_counted_over_the_whole_run_go_on(digits, tmp_path):
    run_with(digits, tmp_path, [], **{'train_cfg.max_epochs': 1}).train()
    path = tmp_path / 'epoch_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['message_hub']['runtime_info']['skipped_steps'] = 10
    torch.save(checkpoint, path)
    hooks = [dict(type='PoisonHook', steps=[7])]
    runner = run_with(digits, tmp_path, hooks, resume=True, load_from=str(path))
    runner.train()
    assert runner.message_hub.get_info('skipped_steps') == 11


@pytest.mark.parametrize('setting', [dict(max_skipped=-1), dict(window=0)])
def test_a_window_that_counts_nothing_is_refused(setting):
    with pytest.raises(ValueError, match=rf'NonFiniteHook.{next(iter(setting))}='):
        HOOKS.build(dict(type='NonFiniteHook', **setting))


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


class CountReads(TorchDispatchMode):
    """Counts how often a step's results are read by the host, which waits for the device then.

    Tensors that the host has made from numbers are its own.
    """

    def __init__(self):
        super().__init__()
        self.count, self.own = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == 'lift_fresh':
            self.own.append(result.untyped_storage())
        elif name in ('_local_scalar_dense', 'is_nonzero', 'nonzero', 'equal'):
            self.note(args[0])
        return result

    def note(self, tensor):
        own = {storage._cdata for storage in self.own}
        self.count += tensor.untyped_storage()._cdata not in own


@pytest.fixture
def reads(monkeypatch):
    """Counts reads, those of `tolist` too, which the dispatcher does not see on a CPU."""
    mode, tolist = CountReads(), torch.Tensor.tolist

    def counting(tensor):
        mode.note(tensor)
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, 'tolist', counting)
    return mode


LARS = dict(_delete_=True, type='TIMMLars', lr=0.1, momentum=0.9, weight_decay=1e-6)


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'optim_wrapper.optimizer': LARS}, 1),
        ({'optim_wrapper.accumulative_counts': 3}, 1),
        ({'default_hooks.non_finite': None}, 1),
        ({'optim_wrapper.type': 'ScaledOptimWrapper'}, 2),
        ({'optim_wrapper.clip_grad': dict(max_norm=1.0)}, 2),
    ],
    ids=['LARS', 'accumulation', 'without the hook', 'loss scaler', 'clipping'],
)
def test_the_host_reads_once_in_a_step(digits, tmp_path, reads, options, expected):
    options |= {'default_hooks.logger.interval': 100, 'train_cfg.max_epochs': 1}
    runner = run_with(digits, tmp_path, [], **options)
    run_iter, counts = runner.train_loop.run_iter, []

    def counted(*args):
        before = reads.count
        with reads:
            run_iter(*args)
        counts.append(reads.count - before)

    runner.train_loop.run_iter = counted
    runner.train()
    assert counts[:5] == [expected] * 5  # the end of the epoch is logged


@pytest.mark.parametrize('batches', [1, 3])
def test_the_loss_is_logged_as_it_was(digits, tmp_path, batches):
    logged = []
    for number, hook in enumerate((dict(type='NonFiniteHook'), None)):
        options = {'optim_wrapper.accumulative_counts': batches, 'default_hooks.non_finite': hook}
        runner = run_with(digits, tmp_path / str(number), [], **options)
        runner.train()
        logged.append(runner.message_hub.get_scalar('train/loss').data[0].tolist())
    assert logged[0] == logged[1] and len(set(logged[0])) == len(logged[0]) == 10
