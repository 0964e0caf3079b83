"""Loss, positiveness and their gradients against loops written from the paper."""

import math
import sys
from itertools import pairwise

import pytest
import torch
from mmpretrain.registry import MODELS
from torch.nn import functional as F

from mmsnclr.models import SNCLRLoss, log_positiveness, neighbor_scores, snclr_loss
from mmsnclr.models import snclr_loss as snclr_loss_function
from mmsnclr.models.snclr_loss import Candidates

N, M, K, D, C = 4, 6, 3, 5, 7  # instances, batch, neighbours, width, candidates


def unit(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


@pytest.fixture
def batch():
    """A global batch of 6 of which the first 4 are this rank's."""
    generator = torch.Generator().manual_seed(7)
    picked = torch.stack([torch.randperm(C, generator=generator)[:K] for _ in range(M)])
    return dict(
        z=unit(N, D, seed=0),
        y=unit(N, D, seed=1),
        keys=unit(M, D, seed=2),
        rows=unit(C, D, seed=3),
        picked=picked,
    )


def brute_force(batch, t, form, neighbors_in, gamma, uniform=False, missing=()):
    """Eq. 2 and its variants, instance by instance, in plain loops.

    ``missing`` lists pairs (instance, i) of neighbours that do not exist.
    """
    z, y, keys, rows, picked = (batch[k] for k in ('z', 'y', 'keys', 'rows', 'picked'))

    def neighbors(j):
        return [(i, rows[picked[j, i]]) for i in range(K) if (j, i) not in missing]

    total = 0
    for n in range(len(z)):
        scores = [torch.exp(y[n] @ c) for _, c in neighbors(n)]
        weights = [
            torch.ones((), dtype=z.dtype) if uniform else s / sum(scores) / gamma[i]
            for (i, _), s in zip(neighbors(n), scores)
        ]
        own = [c for _, c in neighbors(n)]
        positives, w = [keys[n]], [torch.ones((), dtype=z.dtype)]
        if neighbors_in != 'negatives':
            positives, w = positives + own, w + weights
        e = [torch.exp(z[n] @ p / t) for p in positives]
        normalizer = sum(e)
        for j in range(len(keys)):
            if j != n:
                others = [keys[j]]
                if neighbors_in != 'positives':
                    others += [c for _, c in neighbors(j)]
                normalizer = normalizer + sum(torch.exp(z[n] @ c / t) for c in others)
        if form == 'log_sum':
            total = total - torch.log(sum(a * b for a, b in zip(w, e)) / normalizer)
        else:
            total = total - sum(a * torch.log(b / normalizer) for a, b in zip(w, e))
    return total / len(z)


def ours(batch, t, form, neighbors_in, gamma, uniform=False, missing=()):
    valid = torch.ones(M, K, dtype=torch.bool)
    for pair in missing:
        valid[pair] = False
    counts = torch.zeros(C, dtype=torch.int32)
    counts.scatter_add_(0, batch['picked'].flatten(), valid.flatten().int())
    own, valid = batch['picked'][:N], valid[:N]
    candidates = Candidates(batch['rows'], counts, own, valid)
    log_weights = log_positiveness(neighbor_scores(batch['y'], candidates), valid, gamma.log())
    if uniform:
        log_weights = torch.where(valid, 0.0, log_weights)
    return snclr_loss(
        batch['z'],
        batch['keys'],
        torch.arange(N),
        t,
        candidates,
        log_weights,
        form,
        neighbors_in,
    )


def value_and_gradients(loss, batch, *args, **kwargs):
    batch = {k: v.clone() for k, v in batch.items()}
    batch['z'].requires_grad_()
    batch['y'].requires_grad_()
    value = loss(batch, *args, **kwargs)
    value.backward()
    zero = torch.zeros_like(batch['y'])
    return value.detach(), batch['z'].grad, zero if batch['y'].grad is None else batch['y'].grad


@pytest.mark.parametrize('form', ['log_sum', 'sum_log'])
@pytest.mark.parametrize('neighbors_in', ['both', 'positives', 'negatives'])
@pytest.mark.parametrize('uniform', [False, True])
@pytest.mark.parametrize('temperature', [0.05, 1.0])
def test_loss_and_gradients_equal_the_papers_equations(
    batch, form, neighbors_in, uniform, temperature
):
    gamma = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    args = (batch, temperature, form, neighbors_in, gamma, uniform)
    for mine, reference in zip(
        value_and_gradients(ours, *args), value_and_gradients(brute_force, *args)
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('form', ['log_sum', 'sum_log'])
@pytest.mark.parametrize('neighbors_in', ['both', 'positives', 'negatives'])
@pytest.mark.parametrize('missing', [[(1, 2)], [(0, 0), (0, 1), (0, 2), (5, 1)]])
def test_missing_neighbors_take_no_part(batch, form, neighbors_in, missing):
    args = (batch, 0.2, form, neighbors_in, torch.ones(K, dtype=torch.float64))
    for mine, reference in zip(
        value_and_gradients(ours, *args, missing=missing),
        value_and_gradients(brute_force, *args, missing=missing),
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_an_own_neighbor_that_another_picked_stays_in_the_denominator(batch):
    batch['picked'][:] = torch.tensor([0, 1, 2])
    gamma = torch.ones(K, dtype=torch.float64)
    args = (batch, 0.2, 'log_sum', 'negatives', gamma)
    torch.testing.assert_close(ours(*args), brute_force(*args))
    alone = snclr_loss(batch['z'], batch['keys'], torch.arange(N), 0.2)
    assert ours(*args) > alone


def test_without_neighbors_it_is_cross_entropy_over_the_keys(batch):
    expected = F.cross_entropy(batch['z'] @ batch['keys'].T / 0.2, torch.arange(N))
    torch.testing.assert_close(
        snclr_loss(batch['z'], batch['keys'], torch.arange(N), 0.2), expected
    )


@pytest.mark.parametrize('neighbors_in', ['both', 'negatives'])
def test_chunks_of_candidates_give_the_same_sum(batch, monkeypatch, neighbors_in):
    args = (batch, 0.2, 'log_sum', neighbors_in, torch.ones(K, dtype=torch.float64))
    whole = value_and_gradients(ours, *args)
    module = sys.modules[snclr_loss.__module__]
    monkeypatch.setattr(module, '_CHUNK', 3)
    monkeypatch.setattr(module, '_NEIGHBORS_AT_ONCE', 2)
    for a, b in pairwise([whole, value_and_gradients(ours, *args)]):
        torch.testing.assert_close(a, b)


def test_uniform_positiveness_of_one_neighbor_is_nnclr_like_weighting(batch):
    scores = torch.randn(N, 1)
    log_weights = log_positiveness(scores, torch.ones(N, 1, dtype=torch.bool), torch.zeros(()))
    torch.testing.assert_close(log_weights, torch.zeros_like(log_weights))


def test_computed_in_float32_under_autocast(batch):
    batch = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
    counts = torch.bincount(batch['picked'].flatten(), minlength=C)
    candidates = Candidates(batch['rows'], counts, batch['picked'][:N], torch.ones(N, K) > 0)
    scores = neighbor_scores(batch['y'], candidates)
    log_weights = log_positiveness(scores, candidates.valid, torch.zeros(()))
    loss = SNCLRLoss()
    args = (batch['z'], batch['keys'], torch.arange(N), candidates, log_weights)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        under_autocast = loss(*args)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, loss(*args), rtol=0, atol=0)


def test_gradients_stay_finite_where_weights_underflow(batch):
    batch = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
    batch['y'] = batch['y'] * 500  # scores far apart: some softmax weights are exactly 0
    gamma = torch.ones(K)
    for form in ('log_sum', 'sum_log'):
        for values in value_and_gradients(ours, batch, 0.01, form, 'both', gamma):
            assert torch.isfinite(values).all()


def test_loss_weight_multiplies(batch):
    args = (batch['z'].float(), batch['keys'].float(), torch.arange(N))
    torch.testing.assert_close(SNCLRLoss(loss_weight=0.4)(*args), 0.4 * SNCLRLoss()(*args))


@pytest.mark.parametrize(
    ('setting', 'name'),
    [
        (dict(form='mean'), 'loss.form'),
        (dict(neighbors_in='none'), 'loss.neighbors_in'),
        (dict(temperature=0.0), 'loss.temperature'),
    ],
)
def test_unknown_settings_are_named(setting, name):
    with pytest.raises(ValueError, match=name):
        SNCLRLoss(**setting)


def test_value_for_a_case_small_enough_for_paper_and_pencil():
    # One instance, its key and its one neighbour all equal to the prediction:
    # Eq. 2 is -log((1 * e + 1 * e) / (e + e)) = 0 for gamma = 1, log(4/3) for gamma = 2.
    z = torch.tensor([[1.0, 0.0]])
    candidates = Candidates(z, torch.tensor([1]), torch.tensor([[0]]), torch.tensor([[True]]))
    for gamma, expected in ((1.0, 0.0), (2.0, math.log(4 / 3))):
        scores = neighbor_scores(z, candidates)
        log_weights = log_positiveness(scores, candidates.valid, torch.tensor(gamma).log())
        loss = snclr_loss_function(z, z, torch.tensor([0]), 0.5, candidates, log_weights)
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_without_neighbors_it_is_moco_v3s_loss():
    key, projection = unit(N, D, seed=1), unit(N, D, seed=2)
    mocov3 = MODELS.build(
        dict(
            type='MoCoV3Head',
            predictor=dict(type='SNCLRNeck', in_channels=D, hid_channels=D, out_channels=D),
            loss=dict(type='CrossEntropyLoss'),
            temperature=0.2,
        )
    ).double()
    expected = mocov3.loss(projection, key)
    prediction = F.normalize(mocov3.predictor([projection])[0], dim=1)
    loss = snclr_loss(prediction, key, torch.arange(N), 0.2)
    assert torch.allclose(loss, expected, rtol=1e-12)
