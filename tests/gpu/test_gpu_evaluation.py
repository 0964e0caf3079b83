"""What is measured and exported on the device equals the CPU's."""

import math

import numpy as np
import pytest
import torch
from helpers import ROOT, build_method, fill_set, images, small_model, small_run
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmsnclr.api import embed
from mmsnclr.backbones import export_backbone
from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks import HealthHook
from mmsnclr.evaluation import knn_accuracy


def test_knn_accuracy_is_the_cpus(device):
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 16, generator=generator) for n in (500, 200))
    labels, truth = (torch.randint(5, (n,), generator=generator) for n in (500, 200))
    expected = knn_accuracy(bank, labels, queries, truth, (5, 20))
    found = knn_accuracy(bank.to(device), labels, queries, truth, (5, 20))
    assert found == pytest.approx(expected, abs=0.6)  # one query of which two classes are equal


@pytest.mark.parametrize('collapsed', [False, True])
def test_health_is_the_cpus_also_of_collapsed_features(device, collapsed):
    values = []
    for where in ('cpu', device):
        model = build_method(small_model())
        if collapsed:
            for network in (model.neck, model.momentum_encoder[1]):
                last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
                torch.nn.init.zeros_(last.weight)
                torch.nn.init.ones_(last.bias if last.bias is not None else last.weight)
        model.to(where)
        fill_set(model, 10)
        views, samples = images(8, seed=99, first_id=100)
        model.loss([view.to(where) for view in views], samples)
        values.append({k: float(v) for k, v in HealthHook().measure(model).items()})
    expected, found = values
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-3, nan_ok=True)
    if collapsed:
        assert found['effective_rank'] == pytest.approx(1, abs=0.05)
        assert found['feature_std'] == pytest.approx(0, abs=1e-3)


def test_a_run_is_trained_embedded_and_exported(device, digits, tmp_path):
    build_runner(small_run(digits, tmp_path / 'run', **{'train_cfg.max_epochs': 1})).train()
    checkpoint = tmp_path / 'run/epoch_1.pth'
    written = embed(checkpoint, [digits / 'unlabelled'], tmp_path / 'embedding')
    features = np.load(written.npz)['features']
    assert len(features) == 96 and np.isfinite(features).all()
    export_backbone(checkpoint, tmp_path / 'backbone.pth', 'mmpretrain')
    assert torch.load(tmp_path / 'backbone.pth', weights_only=True)['state_dict']


def test_a_detector_trains_two_steps(device):
    ops = pytest.importorskip('mmcv.ops', reason='mmcv has no compiled operators here')
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs

    try:
        ops.nms(torch.rand(4, 4, device=device), torch.rand(4, device=device), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"mmcv's operators do not run on {device}: {error}")
    config = Config.fromfile(ROOT / 'configs/maskrcnn_random_1x_coco.py')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(2):
            batch = demo_mm_inputs(2, [[3, 96, 96], [3, 96, 96]], with_mask=True, num_classes=80)
            losses = model.forward(**model.data_preprocessor(batch, True), mode='loss')
            loss, _ = model.parse_losses(losses)
            assert math.isfinite(float(loss))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
