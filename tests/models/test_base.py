"""What methods share: views and keys, the momentum encoder, the set, and one of a user's own."""

import copy
import re

import numpy as np
import pytest
import torch
from helpers import (
    METHODS,
    ROOT,
    build_method,
    config_of,
    fill_set,
    images,
    small_model,
    small_run,
)
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn import functional as F

from mmsnclr.api.report import report
from mmsnclr.datasets.image_id import image_id
from mmsnclr.engine import build_runner
from mmsnclr.engine.run import read_log
from mmsnclr.visualization.report import judge


def build(**options):
    return build_method(small_model(**options))


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
    model = build_method(config_of(method))
    fill_set(model, 3)
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
    monkeypatch.setattr(model, 'compare', compare)
    inputs = [torch.full((4, 3, 8, 8), number / 2) for number in range(views)]
    model.loss(inputs, images(4, seed=0)[1])
    assert seen == pairs


def test_images_without_identity_are_said_once(caplog):
    model = build()
    views, _ = images(8, seed=0)
    logger = MMLogger.get_instance('identity', log_level='WARNING')
    logger.addHandler(caplog.handler)  # it passes nothing on to the root logger
    for _ in range(2):
        model.loss(views, [DataSample() for _ in range(8)])
    (warning,) = caplog.records
    assert 'may become its own neighbour' in warning.getMessage()


def test_what_is_not_known_of_an_image_is_minus_one():
    model = build()
    views, samples = images(8, seed=0)
    for number, sample in enumerate(samples[:6]):
        sample.set_gt_label(number if number else [1, 2])  # of several classes: of none
    samples[7] = DataSample()
    model.loss(views, samples)
    known = [image_id(sample) for sample in samples[:7]]
    assert model.last_step.labels.tolist() == [-1, 1, 2, 3, 4, 5, -1, -1]
    assert model.last_step.ids.tolist() == [*known, -1]


@pytest.mark.parametrize(
    ('end', 'progress', 'expected'),
    [(None, 0.7, 0.9), (1.0, 0.0, 0.9), (1.0, 0.5, 0.95), (1.0, 1.0, 1.0)],
)
def test_momentum_encoder_follows_by_the_coefficient(end, progress, expected):
    model = build(momentum_coefficient=0.9, end_momentum_coefficient=end)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += 1
    before = copy.deepcopy(model.momentum_encoder)
    model.after_optimizer_step(progress)
    for old, new, online in zip(
        before.parameters(), model.momentum_encoder.parameters(), model.online_encoder.parameters()
    ):
        torch.testing.assert_close(new, expected * old + (1 - expected) * online)


def test_init_weights_starts_both_encoders_alike():
    model = MODELS.build(small_model())
    model.init_weights()
    for a, b in zip(model.online_encoder.parameters(), model.momentum_encoder.parameters()):
        assert torch.equal(a, b)


def test_a_forgotten_hook_is_noticed():
    model = build()
    model._max_pending = 3
    views, samples = images(2, seed=0)
    for _ in range(3):
        model.loss(views, samples)
    with pytest.raises(RuntimeError, match='NeighborQueueHook'):
        model.loss(views, samples)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'head.neighbors': 65}, "neighbors=65 exceeds the candidate set's length 64; lower model"),
        ({'momentum_coefficient': 1.5}, 'model.momentum_coefficient=1.5'),
        ({'neck.in_channels': None}, 'model.neck.in_channels'),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(small_model(**options))


def test_a_set_of_another_width_is_named():
    model = build(**{'queue.dim': 8})
    with pytest.raises(ValueError, match=r'set model\.queue\.dim=16'):
        model.loss(*images(4, seed=0))


class Losses(Hook):
    def before_train(self, runner):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss'].detach()))


FALLING = [(method, crops) for method in METHODS for crops in ('two views', 'multi-crop')]
QUICK = {(method, 'two views') for method in METHODS} | {('snclr', 'multi-crop')}


@pytest.mark.parametrize(
    ('method', 'crops'),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in FALLING],
)
def test_losses_fall_over_fifty_steps_of_the_demos_digits(method, crops, digits, tmp_path):
    view = dict(size=32, crop_scale=(0.5, 1.0), jitter_prob=0, gray_prob=0, blur_prob=0)
    small = [dict(view, size=24, crop_scale=(0.3, 0.5))] * 2
    pipeline = [
        dict(type='AugmentedViews', views=[view, view] + small * (crops == 'multi-crop')),
        dict(type='PackInputs'),
    ]
    config = small_run(
        digits,
        tmp_path,
        **{
            'train_cfg.max_epochs': 9,
            'optim_wrapper.optimizer.lr': 0.03,
        },
    )
    config.train_dataloader.dataset.pipeline = pipeline
    config.model = config_of(method)
    runner, record = build_runner(config), Losses()
    runner.register_hook(record)
    runner.train()
    losses = np.array(record.losses)
    assert len(losses) == 54 and np.isfinite(losses).all()
    settled = losses[8:]  # the set has been filled: before, it grows, and the loss with it
    assert settled[-10:].mean() < settled[:10].mean() - 0.1


@MODELS.register_module()
def test_the_documented_method_is_a_class_that_every_tool_takes(digits, tmp_path):
    code = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/methods.md').read_text(), re.S)
    exec(code[0], {})  # registers it
    options = {'train_dataloader.batch_size': 48, 'train_cfg.max_epochs': 1}
    config = small_run(digits, tmp_path, **options, **{'model.type': 'MeanShift'})
    assert {'health', 'non_finite', 'rank_drift', 'heartbeat'} <= config.default_hooks.keys()
    build_runner(config).train()
    first, second = read_log(tmp_path)
    assert 0 < first['loss'] < 8 and 0 < second['loss'] < 8  # two orders of 4 at most
    assert second['chance_recall'] == pytest.approx(4 / 48)  # of the first step's keys
    assert 'neighbor_similarity' in second and 'positiveness_entropy' not in second

    (problem,), _ = judge([second | dict(view_recall=0.0)], config)
    assert 'noise' in problem and 'custom_hooks.0.warmup_epochs=1 (now 0)' in problem
    page = report(tmp_path).read_text()
    assert 'MeanShift' in page and page.count('class="query card"') == 12
