"""A training's precision suits its device, by config and by flag."""

import pytest
import torch
from helpers import small_run
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, init_default_scope
from torch import nn

from mmsnclr.engine import build_runner, optim
from mmsnclr.engine.optim import BFloat16OptimWrapper, set_amp


def build(precision=None, **options):
    """The wrapper of a config, as it is built on a CPU."""
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    cfg = dict(type='MixedPrecisionOptimWrapper', optimizer=optimizer, **options)
    return OPTIM_WRAPPERS.build(cfg | ({} if precision is None else dict(precision=precision)))


@pytest.mark.parametrize(
    ('precision', 'expected'),
    [
        (None, BFloat16OptimWrapper),
        ('bf16', BFloat16OptimWrapper),
        ('fp16', BFloat16OptimWrapper),
        ('fp32', OptimWrapper),
    ],
)
def test_on_a_cpu_there_is_no_float16_and_no_scaler(precision, expected):
    wrapper = build(precision, accumulative_counts=2, loss_scale=512.0)
    assert type(wrapper) is expected and not hasattr(wrapper, 'loss_scaler')
    assert wrapper._accumulative_counts == 2


@pytest.mark.parametrize(
    ('capability', 'detector', 'expected'),
    [
        ((7, 5), False, 'fp16'),
        ((8, 0), False, 'bf16'),
        ((9, 0), False, 'bf16'),
        ((8, 0), True, 'fp16'),
    ],
)
def test_on_cuda_bfloat16_is_taken_where_it_is_native(monkeypatch, capability, detector, expected):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)  # as an emulation is
    assert optim._choose('auto', torch.device('cuda'), detector) == expected
    for precision in ('fp16', 'fp32'):
        assert optim._choose(precision, torch.device('cuda'), detector) == precision


def test_float16_comes_with_a_scaler(monkeypatch):
    class Amp(AmpOptimWrapper):
        def __init__(self, loss_scale, dtype, **kwargs):  # mmengine's refuses a CPU
            self.settings = loss_scale, dtype
            OptimWrapper.__init__(self, **kwargs)

    monkeypatch.setattr(optim, '_choose', lambda *args: 'fp16')
    monkeypatch.setattr(optim, 'AmpOptimWrapper', Amp)
    assert build().settings == ('dynamic', 'float16')
    assert build(loss_scale=512.0).settings == (512.0, 'float16')


def test_a_detector_trains_in_float32_on_a_cpu_and_never_in_bfloat16():
    init_default_scope('mmdet')
    for precision in ('auto', 'fp16', 'fp32'):
        assert type(build(precision)) is OptimWrapper
    with pytest.raises(ValueError, match=r'--amp bf16.*no bfloat16.*fp16'):
        build('bf16')
    cfg = Config(dict(default_scope='mmdet', optim_wrapper=dict(type='OptimWrapper')))
    with pytest.raises(ValueError, match=r'--amp bf16'):
        set_amp(cfg, 'bf16')


def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match=r"precision='half' must be one of"):
        build('half')
    with pytest.raises(ValueError, match=r"amp='half' must be one of"):
        set_amp(Config(dict(optim_wrapper=dict())), 'half')


@pytest.mark.parametrize('kind', ['auto', 'fp16', 'bf16', 'off', True, False])
@pytest.mark.parametrize(
    'before',
    [
        dict(),
        dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16'),
        dict(type='BFloat16OptimWrapper'),
        dict(type='MixedPrecisionOptimWrapper', precision='fp16'),
    ],
    ids=lambda cfg: cfg.get('type', 'none'),
)
def test_the_flag_goes_before_any_config(before, kind):
    cfg = Config(dict(optim_wrapper=dict(before, accumulative_counts=2)))
    set_amp(cfg, kind)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build(dict(cfg.optim_wrapper, optimizer=optimizer))
    off = kind in ('off', False)
    assert type(wrapper) is (OptimWrapper if off else BFloat16OptimWrapper)
    assert wrapper._accumulative_counts == 2


def test_a_run_goes_on_in_another_precision(digits, tmp_path):
    """Also from float16, whose scaler the checkpoint holds."""
    for epochs, kind in ((1, 'off'), (2, 'auto'), (3, 'off')):
        cfg = small_run(digits, tmp_path, resume=epochs > 1, **{'train_cfg.max_epochs': epochs})
        set_amp(cfg, kind)
        runner = build_runner(cfg)
        runner.train()
        path = tmp_path / f'epoch_{epochs}.pth'
        saved = torch.load(path, weights_only=False)
        saved['optimizer']['loss_scaler'] = dict(scale=2.0, growth_factor=2.0)
        torch.save(saved, path)
    assert runner.iter == 18
