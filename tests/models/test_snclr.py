"""SNCLR: its equation on one process, and its settings."""

import pytest
import torch
from helpers import build_method, fill_set, gradient_step, images, small_model, snclr_by_hand
from mmpretrain.registry import MODELS
from torch.nn import functional as F


def build(**options):
    return build_method(small_model(**options))


@pytest.mark.parametrize('projection', [None, 'linear'])
def test_every_online_parameter_learns_in_warm_up_and_after(projection):
    model = build(**{'head.projection': projection})
    online = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith('momentum_encoder') for name in online)
    for use_neighbors in (False, True):
        fill_set(model, 2)
        model.use_neighbors = use_neighbors
        model.zero_grad()
        _, gradients = gradient_step(model)
        assert set(gradients) == online
        assert (model.diagnostics is not None) == use_neighbors
        assert not use_neighbors or not model.diagnostics.log_weights.requires_grad
        assert all(torch.isfinite(g).all() for g in gradients.values())
        if projection and use_neighbors:
            assert all(gradients[f'head.projections.{i}.weight'].any() for i in (0, 1))


def test_neighbors_wait_until_the_set_holds_k():
    model = build(**{'head.neighbors': 12})
    views, samples = images(8, seed=0)
    model.loss(views, samples)
    model.after_optimizer_step(0.0)
    model.loss(views, samples)
    assert model.queue.fill == 8 and model.diagnostics is None
    model.after_optimizer_step(0.0)
    model.loss(views, samples)
    assert model.queue.fill == 16 and model.diagnostics is not None


@pytest.mark.parametrize('sharpness', [1.0, 0.05])
def test_loss_is_that_of_both_orders_against_the_set_as_it_stood_before(sharpness):
    model = build(
        **{'head.positiveness_temperature': sharpness}
    ).eval()  # BN with running statistics: views can be encoded again by hand
    model.training = True
    fill_set(model, 3)
    before, ids = (x[: model.queue.fill].clone() for x in (model.queue.features, model.queue.ids))
    views, samples = images(8, seed=50, first_id=1000)
    loss = model.loss(views, samples)['loss'].double()
    expected = snclr_by_hand(model, views, samples, [(before, ids)] * 8)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.queue.features[: len(before)], before)
    model.after_optimizer_step(0.0)
    keys = F.normalize(model.momentum_encoder(views[1])[0], dim=1)
    torch.testing.assert_close(model.queue.features[len(before) :][:8], keys)


def test_parametric_positiveness_starts_as_the_papers_and_uniform_weighs_all_alike():
    projection, weights = torch.randn(4, 16), {}
    for name, option in dict(
        plain={}, linear={'head.projection': 'linear'}, uniform={'head.positiveness': 'uniform'}
    ).items():
        model = build(**option)
        model.head.init_weights()
        fill_set(model, 2)
        found = model.queue.search(F.normalize(projection, dim=1), None, 4)
        weights[name] = model.log_weights(projection, model.queue.features, found)
    torch.testing.assert_close(weights['linear'], weights['plain'])
    assert weights['plain'].any() and not weights['uniform'].any()


def test_nothing_stops_the_gradient_of_the_positiveness():
    model = build()
    fill_set(model, 2)
    projection = torch.randn(4, 16, requires_grad=True)
    found = model.queue.search(F.normalize(projection.detach(), dim=1), None, 4)
    log_weights = model.log_weights(projection, model.queue.features, found)
    (gradient,) = torch.autograd.grad(log_weights[:, 0].sum(), projection)
    assert (gradient.norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'head.gamma': [1.0, 2.0]}, 'head.gamma must be one positive float or 4'),
        ({'head.positiveness': 'hard'}, 'head.positiveness'),
        ({'head.positiveness_temperature': 0.0}, 'head.positiveness_temperature=0.0 must be'),
        ({'head.projection': 'mlp'}, 'head.projection'),
        ({'head.projection': 'linear', 'head.positiveness': 'uniform'}, 'learns through'),
        ({'head.projection': 'linear', 'head.neighbors': 1}, 'learns through .*head.neighbors > 1'),
        ({'head.loss.form': 'logsum'}, 'loss.form'),
    ],
)
def test_wrong_settings_of_the_head_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(small_model(**options))
