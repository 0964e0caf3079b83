"""SyncBN without waiting computes what BN does with the joined batch."""

import pytest
import torch
from helpers import run_ranks, small_model
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import runner
from mmpretrain.registry import MODELS
from timm.layers import BatchNormAct2d
from torch import distributed, nn

from mmsnclr.engine.cost import synthetic_peers
from mmsnclr.models.sync_batch_norm import SyncBatchNorm, replace_sync_batch_norm

SHAPES = [(6, 5), (6, 5, 4, 3)]
PLAIN = [(SHAPES[0], nn.BatchNorm1d), (SHAPES[1], nn.BatchNorm2d), (SHAPES[1], BatchNormAct2d)]


def layer(kind, dtype=torch.float64, channels=5):
    torch.manual_seed(0)
    bn = kind(channels).to(dtype)
    for values in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
        values.add_(torch.rand(channels))
    return bn


def converted(plain):
    """What the runner makes of a layer in several processes on GPUs."""
    model = nn.Sequential(runner.convert_sync_batchnorm(plain, 'torch'))
    replace_sync_batch_norm(model)
    assert isinstance(model[0], SyncBatchNorm)
    return model[0]


def joined_batch(shape, ranks, dtype):
    """Values, and what the gradient is of, whose statistics differ between ranks."""
    torch.manual_seed(1)
    x = torch.randn(ranks, *shape, dtype=dtype)
    scale = torch.arange(1, ranks + 1, dtype=dtype).view(-1, *(1,) * len(shape))
    return (x * scale + 10 * scale).flatten(0, 1), torch.randn_like(x).flatten(0, 1)


def outcome(bn, x, direction):
    x = x.detach().requires_grad_()
    y = bn(x)
    (y * direction).sum().backward()
    return {
        'output': y.detach(),
        'input': x.grad,
        'weight': bn.weight.grad,
        'bias': bn.bias.grad,
        'running_mean': bn.running_mean,
        'running_var': bn.running_var,
        'steps': bn.num_batches_tracked,
    }


def compare_with_joined_batch(dtype, tolerance, compiled):
    """On a rank: its share of every result, once per shape and layout."""
    distributed.init_process_group('gloo')
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    for shape, plain in PLAIN:
        x, direction = joined_batch(shape, ranks, dtype)
        expected = outcome(layer(plain, dtype), x, direction)
        mine = slice(rank * shape[0], (rank + 1) * shape[0])
        for layout in (torch.contiguous_format, torch.channels_last)[: len(shape) // 2]:
            share = (part[mine].contiguous(memory_format=layout) for part in (x, direction))
            bn = converted(layer(plain, dtype))
            if compiled:
                bn.compile(backend='eager')
            found = outcome(bn, *share)
            for name in ('weight', 'bias'):  # DDP's part
                distributed.all_reduce(found[name])
            for name, value in expected.items():
                value = value[mine] if name in ('output', 'input') else value
                error = (found[name] - value).abs().max()
                assert error <= tolerance * value.abs().max().clamp(min=1), name
            assert found['output'].is_contiguous(memory_format=layout)
    distributed.destroy_process_group()


@pytest.mark.parametrize('ranks', [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    'settings',
    [(torch.float64, 1e-10, False), (torch.float32, 1e-6, False), (torch.float64, 1e-10, True)],
    ids=['float64', 'float32', 'compiled'],
)
def test_ranks_with_unequal_statistics_compute_what_bn_does(ranks, settings):
    assert run_ranks(compare_with_joined_batch, ranks, *settings) == [0] * ranks


@pytest.mark.parametrize(('shape', 'plain'), PLAIN)
def test_alone_and_in_evaluation_it_is_bn(shape, plain):
    x, direction = joined_batch(shape, 1, torch.float64)
    expected, found = (outcome(bn, x, direction) for bn in (layer(plain), converted(layer(plain))))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    with synthetic_peers(32) as received:
        found = converted(layer(plain)).eval()(x)
    assert torch.equal(found, layer(plain).eval()(x)) and not received


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('tracked', [True, False])
def test_what_does_not_learn_gets_no_gradient(affine, tracked):
    bn = SyncBatchNorm(5, affine=affine, track_running_stats=tracked)
    with synthetic_peers(2) as received:
        x = torch.randn(6, 5, requires_grad=True)
        bn(x).square().sum().backward()
        assert x.grad is not None and set(received) == {'all_gather', 'all_reduce'}
        received.clear()
        bn.requires_grad_(False)
        assert not bn(x.detach()).requires_grad
        with torch.no_grad():
            bn(x)
        assert received == {'all_gather': 2 * 2 * 5 * 4}
        if affine:
            bn.bias.requires_grad_(True)
            bn.zero_grad()
            bn(x.detach()).sum().backward()
            assert bn.weight.grad is None or not bn.weight.grad.any()
            assert torch.equal(bn.bias.grad, torch.full((5,), 6.0))
            assert 'all_reduce' not in received


def test_half_precision_keeps_statistics_in_float32():
    bn = layer(SyncBatchNorm, torch.float32)
    x, direction = joined_batch((6, 5, 4, 3), 1, torch.float32)
    x = (x - 10).bfloat16()
    with synthetic_peers(4):
        full = outcome(layer(SyncBatchNorm, torch.float32), x.float(), direction)
        half = outcome(bn, x, direction.bfloat16())
    assert half['output'].dtype == half['input'].dtype == torch.bfloat16
    assert half['weight'].dtype == half['running_var'].dtype == torch.float32
    for name, value in full.items():
        torch.testing.assert_close(half[name].to(value.dtype), value, rtol=0.05, atol=0.1)


def test_methods_have_it_in_both_encoders_and_a_cpu_reverts_it():
    config = small_model(**{'backbone.norm_cfg': dict(type='SyncBN')})
    model = MODELS.build(config)
    for part in (model.backbone, model.neck, model.momentum_encoder, model.head):
        kinds = {type(module) for module in part.modules()}
        assert SyncBatchNorm in kinds and nn.SyncBatchNorm not in kinds
    state = model.state_dict()
    reverted = revert_sync_batchnorm(model)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in reverted.modules())
    assert reverted.state_dict().keys() == state.keys()


def test_layers_that_it_cannot_stand_for_stay():
    own_group = nn.SyncBatchNorm(3, process_group=object())
    cumulative = nn.SyncBatchNorm(3, momentum=None)
    model = nn.ModuleList([own_group, cumulative, nn.BatchNorm1d(3)])
    replace_sync_batch_norm(model)
    assert not any(isinstance(module, SyncBatchNorm) for module in model)
