"""The benchmark of a step runs on any device, so that it is ready for the first GPU."""

import sys

import pytest
import torch
from helpers import ROOT


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    import gpu

    yield gpu
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags
    for name in ('gpu', 'pipeline', 'compare'):
        sys.modules.pop(name, None)


def small(config):
    config.model.backbone = dict(type='ResNet', depth=18, stem_channels=16, base_channels=16)
    config.model.neck.update(in_channels=128, hid_channels=32)
    config.model.head.predictor.hid_channels = 32
    if 'queue' in config.model:
        config.model.queue.length = 512


@pytest.mark.parametrize('method', ['SNCLR', 'MoCo v3'])
def test_the_benchmark_of_a_step_tells_its_parts(device, gpu, method):
    figures = gpu.measure('r50', method, batch=4, steps=2, workers=0, change=small)
    parts = [figures[name] for name in ('copying', 'encoders', 'search and loss', 'backward')]
    assert all(part > 0 for part in parts) and sum(parts) < figures['step']
    assert (figures['kernels'] > 0) == (device == 'cuda')
    assert len(gpu.row(('r50', method), figures)) == 16
