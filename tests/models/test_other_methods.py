"""NNCLR and SCE on SNCLR's candidate set: the equations, and that they learn."""

import numpy as np
import pytest
import torch
from helpers import METHODS, config_of, images, small_run
from mmengine.hooks import Hook
from mmengine.model import revert_sync_batchnorm
from mmpretrain.registry import MODELS
from torch.nn import functional as F

from mmsnclr.engine import build_runner
from mmsnclr.models import sce_loss


def build(method):
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(config_of(method))).train()
    model.momentum_encoder.load_state_dict(model._online_encoder.state_dict())
    return model


def unit(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def sce_by_hand(z, key, rows, t, t_m, contrast):
    """The equations of arXiv 2111.14585, one term after the other."""
    total = 0.0
    for n in range(len(z)):
        target = [torch.exp(key[n] @ row / t_m) for row in rows]
        weights = [contrast, *((1 - contrast) * s / sum(target) for s in target)]
        scores = [torch.exp(z[n] @ k / t) for k in (key[n], *rows)]
        total = total - sum(w * torch.log(e / sum(scores)) for w, e in zip(weights, scores))
    return total / len(z)


@pytest.mark.parametrize('contrast', [0.0, 0.5, 1.0])
@pytest.mark.parametrize(('t', 't_m'), [(0.1, 0.05), (1.0, 0.07)])
def test_sce_loss_and_gradient_equal_the_papers_equations(contrast, t, t_m):
    key, rows = unit(4, 5, seed=1), unit(7, 5, seed=2)
    results = []
    for loss in (sce_loss, sce_by_hand):
        z = unit(4, 5, seed=0).requires_grad_()
        value = loss(z, key, rows, t, t_m, contrast)
        value.backward()
        results.append((value.detach(), z.grad))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def fill(model, steps=3):
    for step in range(steps):
        views, samples = images(8, seed=step, first_id=step * 8)
        with torch.no_grad():
            model.loss(views, samples)
        model.after_optimizer_step(0.0)


def test_nnclr_compares_with_the_nearest_neighbors_of_other_images():
    model = build('nnclr')
    fill(model)
    views, samples = images(8, seed=99, first_id=0)  # in the set already
    loss = model.loss(views, samples)['loss']
    model._pending.clear()
    set_features, expected = model.queue.features[:24].double(), 0.0
    y = [model.neck(model.backbone(v))[0] for v in views]
    z = [F.normalize(model.head.predictor((v,))[0], dim=1).double() for v in y]
    k = [F.normalize(model.momentum_encoder(v)[0], dim=1).double() for v in views]
    for prediction, keys in ((z[0], k[1]), (z[1], k[0])):
        similarity = keys @ set_features.T
        similarity[torch.arange(8), torch.arange(8)] = -2  # their own older features
        supports = set_features[similarity.argmax(dim=1)]
        expected += F.cross_entropy(supports @ prediction.T / 0.1, torch.arange(8))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('method', 'views', 'pairs'),
    [
        ('snclr', 2, [(0, 1), (1, 0)]),
        ('sce', 2, [(0, 1)]),
        ('sce', 5, [(0, 1), (2, 1), (3, 1), (4, 1)]),
        ('sce, symmetric', 3, [(0, 1), (1, 0), (2, 0), (2, 1)]),
    ],
)
def test_which_view_is_compared_with_whose_keys(method, views, pairs, monkeypatch):
    model = build(method)
    fill(model)
    seen = []

    def encode(view):
        """Let each view's number turn a unit vector in the plane."""
        angle = view.mean(dim=(1, 2, 3))
        return F.pad(torch.stack([angle.cos(), angle.sin()], dim=1), (0, 14))

    def number(features):
        return round(2 * float(torch.atan2(features[0, 1], features[0, 0])))

    def compare(projection, keys, *_):
        seen.append((number(projection), number(keys)))
        return projection.sum(), None

    monkeypatch.setattr(model.backbone, 'forward', lambda view: (view,))
    monkeypatch.setattr(model.neck, 'forward', lambda views: (encode(views[0]),))
    monkeypatch.setattr(model.momentum_encoder, 'forward', lambda view: (encode(view),))
    monkeypatch.setattr(model, '_one_order', compare)
    inputs = [torch.full((4, 3, 8, 8), number / 2) for number in range(views)]
    model.loss(inputs, images(4, seed=0)[1])
    assert seen == pairs


class Losses(Hook):
    def before_train(self, runner):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss'].detach()))


@pytest.mark.parametrize('crops', ['two views', 'multi-crop'])
@pytest.mark.parametrize('method', METHODS)
def test_losses_fall_over_fifty_steps_of_the_demos_digits(method, crops, digits, tmp_path):
    view = dict(size=48, crop_scale=(0.5, 1.0), jitter_prob=0, gray_prob=0, blur_prob=0)
    small = [dict(view, size=32, crop_scale=(0.3, 0.5))] * 2
    pipeline = [
        dict(type='AugmentedViews', views=[view, view] + small * (crops == 'multi-crop')),
        dict(type='PackInputs'),
    ]
    config = small_run(
        digits,
        tmp_path,
        **{
            'train_dataloader.batch_size': 24,
            'train_cfg.max_epochs': 13,
            'optim_wrapper.optimizer.lr': 0.03,
        },
    )
    config.train_dataloader.dataset.pipeline = pipeline
    config.model = config_of(method)
    runner, record = build_runner(config), Losses()
    runner.register_hook(record)
    runner.train()
    losses = np.array(record.losses)
    assert len(losses) == 52 and np.isfinite(losses).all()
    settled = losses[8:]  # the set has been filled: before, it grows, and the loss with it
    assert settled[-10:].mean() < settled[:10].mean() - 0.1


def test_nnclr_has_one_neighbor():
    model = config_of('nnclr')
    model.head.neighbors = 4
    with pytest.raises(ValueError, match=r'head\.neighbors=4'):
        MODELS.build(model)


@pytest.mark.parametrize(
    'setting', [dict(temperature=0.0), dict(target_temperature=-1.0), dict(contrast=1.5)]
)
def test_settings_of_sce_out_of_their_domain_are_named(setting):
    with pytest.raises(ValueError, match=f'head.{next(iter(setting))}'):
        MODELS.build(dict(type='SCEHead', **setting))
