"""On CUDA the training step never waits for the device; checked without one, on fake tensors.

Backward passes run on fake CPU tensors, where reading a value is refused just the same.
"""

import pytest
import torch
from helpers import config_of, small_model
from mmengine.model import revert_sync_batchnorm
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StaysOnDevice(TorchDispatchMode):
    """Refuses results on the CPU from operands on the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        operands, results = (
            {x.device.type for x in tree_leaves(tree) if isinstance(x, torch.Tensor)}
            for tree in ((args, kwargs), result)
        )
        if 'cuda' in operands and 'cpu' in results:
            raise AssertionError(f'{function} copies from the device')
        if 'cuda' in operands and 'cpu' in operands and 'copy' not in str(function):
            # Fake tensors take 0-dim CPU operands as the device does: a constant to be moved.
            raise AssertionError(f'{function} reads a CPU tensor')
        return result


def on_fake(model, device):
    """Put fake tensors on a device in the place of a model's parameters and buffers."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device=device)
                module._parameters[name] = torch.nn.Parameter(fake, value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=device)
    return model


def step(model, device, batch=8):
    views = [torch.randn(batch, 3, 32, 32, device=device) for _ in range(2)]
    samples = [
        DataSample(metainfo=dict(img_path=f'{i}.png')).set_gt_label(
            torch.tensor([i], device=device)
        )
        for i in range(batch)
    ]
    loss = model.loss(views, samples)['loss']
    if device == 'cpu':  # autograd insists on a real device
        loss.backward()
    model.after_optimizer_step(0.5)


@pytest.mark.parametrize('autocast', [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'queue.dtype': 'bfloat16'},
        {'queue.sync': False},
        {'head.loss.form': 'sum_log'},
        {'head.loss.neighbors_in': 'negatives'},
        {'head.loss.neighbors_in': 'positives'},
        {'head.projection': 'linear'},
        {'end_momentum_coefficient': 1.0},
        'nnclr',
        'sce',
    ],
    ids=str,
)
@pytest.mark.parametrize('device', ['cuda', 'cpu'])
def test_loss_search_and_enqueue_stay_on_the_device(options, autocast, device):
    config = config_of(options) if isinstance(options, str) else small_model(**options)
    model = revert_sync_batchnorm(MODELS.build(config)).train()

    with FakeTensorMode():
        on_fake(model, device)
        with StaysOnDevice(), torch.autocast(device, autocast, enabled=autocast is not None):
            for _ in range(10):  # past the end of the set of 64
                step(model, device)
    assert model.queue.fill == 64 and (model.diagnostics is not None) == model.weighs


@pytest.mark.parametrize(
    ('mistake', 'error', 'message'),
    [
        (lambda x: x.sum().item(), DataDependentOutputException, 'local_scalar_dense'),
        (lambda x: bool(x.sum() > 0), DataDependentOutputException, 'local_scalar_dense'),
        (lambda x: x.cpu(), AssertionError, 'copies from the device'),
        (lambda x: x.nonzero(), DynamicOutputShapeException, 'nonzero'),
        (lambda x: x[x > 0], DynamicOutputShapeException, 'nonzero'),
        (lambda x: x.unique(), DynamicOutputShapeException, 'unique'),
        (lambda x: x + torch.tensor(1.0), AssertionError, 'reads a CPU tensor'),
        (lambda x: x @ torch.ones(3), RuntimeError, 'two different devices cuda:0, cpu'),
    ],
)
def test_the_check_notices(mistake, error, message):
    with FakeTensorMode():
        tensor = torch.randn(3, device='cuda')
        with StaysOnDevice(), pytest.raises(error, match=message):
            mistake(tensor)
