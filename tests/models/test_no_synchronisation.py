"""On CUDA the training step never waits for the device; checked without one, on fake tensors.

Backward passes run on fake CPU tensors, where reading a value is refused just the same.
"""

import itertools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from helpers import STEP_OPTIONS, config_of, small_model
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmsnclr.models.dist import exchanging_by
from mmsnclr.models.sync_batch_norm import COMPOSED, SyncBatchNorm

RANKS = 32


class StaysOnDevice(TorchDispatchMode):
    """Refuses results on the CPU from operands on the device.

    Attributes:
        products: Types of all matrix products and convolutions, by whether a layer computed them.
    """

    def __init__(self):
        super().__init__()
        self.products = {True: set(), False: set()}
        self.layer = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in _PRODUCTS:
            self.products[self.layer].add(result.dtype)
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


_PRODUCTS = {
    getattr(torch.ops.aten, name) for name in ('mm', 'addmm', 'bmm', 'baddbmm', 'convolution')
}


@pytest.fixture(scope='module')
def operators_of_sync_batch_norm():
    """Shapes of the results of torch's operators, which it has for real CUDA tensors only."""
    library = torch.library.Library('aten', 'IMPL')
    for name, composed in vars(COMPOSED).items():
        library.impl(name, composed, 'Meta')
    yield
    library._destroy()


@contextmanager
def autocast_without_cuda(device, dtype):
    """`torch.autocast`, which switches itself off where there is no CUDA."""
    if dtype is None:
        yield
        return
    with torch.autocast(device, dtype, enabled=False):  # restores what is set here
        if hasattr(torch, 'set_autocast_dtype'):  # torch >= 2.4
            torch.set_autocast_dtype(device, dtype)
            torch.set_autocast_enabled(device, True)
        elif device == 'cuda':
            torch.set_autocast_gpu_dtype(dtype)
            torch.set_autocast_enabled(True)
        else:
            torch.set_autocast_cpu_dtype(dtype)
            torch.set_autocast_cpu_enabled(True)
        yield


@contextmanager
def fake_group(gathered, reduced):
    """As many ranks as a paper's run has; notes what they exchange."""

    def all_gather(values):
        gathered.append(values.shape)
        return torch.cat([values] * RANKS)

    peers = SimpleNamespace(
        all_gather=all_gather,
        all_reduce=lambda values: reduced.append(values.shape),
        get_world_size=lambda: RANKS,
    )
    with exchanging_by(peers):
        yield


def watch_layers(model, mode):
    """Note the passes of SyncBN, and tell `mode` when a layer computes."""
    passes = []
    for name, module in model.named_modules():
        if isinstance(module, SyncBatchNorm):
            module.register_forward_hook(
                lambda bn, inputs, y: passes.append((1, 2 * bn.num_features))
            )
        # Attention's own projections are part of the loss.
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and 'projections' not in name:
            module.register_forward_pre_hook(lambda *_: setattr(mode, 'layer', True))
            module.register_forward_hook(lambda *_: setattr(mode, 'layer', False))
    return passes


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


def step(model, device, batch):
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


@pytest.mark.parametrize(
    ('options', 'autocast'),
    [
        *itertools.product([*STEP_OPTIONS, 'nnclr', 'sce'], [None, torch.bfloat16]),
        (STEP_OPTIONS[0], torch.float16),
    ],
    ids=str,
)
@pytest.mark.parametrize('device', ['cuda', pytest.param('cpu', marks=pytest.mark.slow)])
def test_loss_search_and_enqueue_stay_on_the_device(
    options, autocast, device, operators_of_sync_batch_norm
):
    config = config_of(options) if isinstance(options, str) else small_model(**options)
    config.backbone.norm_cfg = dict(type='SyncBN')
    model = MODELS.build(config).train()
    mode, gathered, reduced = StaysOnDevice(), [], []
    passes = watch_layers(model, mode)

    with FakeTensorMode(), fake_group(gathered, reduced):
        on_fake(model, device)
        with mode, autocast_without_cuda(device, autocast):
            for batch in (64, 8):  # the first fills the set
                step(model, device, batch)
    assert model.queue.fill == 64 and (model.diagnostics is not None) == model.weighs
    # SyncBN: one exchange in each pass of both encoders and the predictor, one backward.
    assert len(passes) > 50 and [s for s in gathered if len(s) == 2 and s[0] == 1] == passes
    if device == 'cpu':
        assert len(passes) / 4 < sum(len(s) == 1 for s in reduced) < len(passes)
        return
    assert mode.products[True] == {autocast or torch.float32}
    assert torch.float32 in mode.products[False]  # the loss; the search is in the set's type
    assert mode.products[False] <= {torch.float32, model.queue.features.dtype}


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
