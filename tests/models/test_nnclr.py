"""NNCLR: its equation, and its one neighbour."""

import pytest
import torch
from helpers import build_method, config_of, fill_set, images
from mmpretrain.registry import MODELS
from torch.nn import functional as F


def test_nnclr_compares_with_the_nearest_neighbors_of_other_images():
    model = build_method(config_of('nnclr'))
    fill_set(model, 3)
    views, samples = images(8, seed=99, first_id=0)  # in the set already
    loss = model.loss(views, samples)['loss']
    model.forget_step()
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


def test_nnclr_has_one_neighbor():
    model = config_of('nnclr')
    model.head.neighbors = 4
    with pytest.raises(ValueError, match=r'head\.neighbors=4'):
        MODELS.build(model)


def test_keys_come_from_the_online_weights():
    model = build_method(config_of('nnclr'))
    with torch.no_grad():
        for parameter in model.online_encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.after_optimizer_step(0.5)
    pairs = zip(model.online_encoder.parameters(), model.momentum_encoder.parameters())
    assert all(torch.equal(online, copied) for online, copied in pairs)
