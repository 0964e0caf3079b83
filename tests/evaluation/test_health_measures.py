"""The measures of features and neighbours, against numpy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmsnclr.evaluation import health
from mmsnclr.evaluation.knn import vote
from mmsnclr.models.queue import Neighbors


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize('offset', [0.0, 3.0, 1000.0])
def test_feature_std_and_pair_similarity_equal_numpys(offset):
    features = normal(50, 8) + offset
    u = unit(features)
    assert float(health.feature_std(torch.tensor(features))) == pytest.approx(
        u.std(axis=0).mean() * math.sqrt(8), rel=1e-9
    )
    pairs = [u[i] @ u[j] for i in range(50) for j in range(50) if i != j]
    assert float(health.pair_similarity(torch.tensor(features))) == pytest.approx(np.mean(pairs))


def test_feature_std_is_1_on_an_even_sphere_and_0_after_a_collapse():
    assert float(health.feature_std(torch.tensor(normal(20_000, 16)))) == pytest.approx(1, abs=0.01)
    assert float(health.feature_std(torch.ones(100, 16))) == pytest.approx(0, abs=1e-6)


def test_effective_rank_equals_numpys_and_counts_even_directions():
    features = normal(60, 12) @ np.diag(np.arange(1.0, 13))
    values = np.linalg.svd(features, compute_uv=False)
    share = values / values.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    assert float(health.effective_rank(torch.tensor(features))) == pytest.approx(expected, rel=1e-9)
    assert float(health.effective_rank(torch.eye(8)[:5])) == pytest.approx(5)
    assert float(health.effective_rank(torch.ones(9, 4))) == pytest.approx(1, abs=1e-3)


def test_positiveness_entropy_leaves_out_missing_neighbors():
    log_weights = torch.tensor(normal(6, 5))
    valid = torch.ones(6, 5, dtype=torch.bool)
    valid[0, 3:] = False
    valid[1] = False
    entropies = []
    for row, used in zip(log_weights.numpy(), valid.numpy()):
        share = np.exp(row[used])
        share = share / share.sum()
        if used.any():
            entropies.append(-(share * np.log(share)).sum())
    assert float(health.positiveness_entropy(log_weights, valid)) == pytest.approx(
        np.mean(entropies)
    )
    even = health.positiveness_entropy(torch.zeros(2, 5), torch.ones(2, 5, dtype=torch.bool))
    assert float(even) == pytest.approx(math.log(5))


def test_view_recall_counts_views_nearer_than_the_last_neighbor():
    keys, rows = F.normalize(torch.tensor(normal(40, 6))), torch.tensor(unit(normal(30, 6, seed=1)))
    similarity, index = (keys @ rows.T).topk(4, dim=1)
    valid = torch.ones_like(index, dtype=torch.bool)
    valid[0, 2:] = False
    views = 5 * (keys + 0.4 * torch.tensor(normal(40, 6, seed=2)))
    expected = [
        unit(views.numpy())[n] @ keys.numpy()[n] > similarity.numpy()[n][valid.numpy()[n]].min()
        for n in range(40)
    ]
    assert 0 < np.mean(expected) < 1
    found = Neighbors(index, similarity, valid)
    assert float(health.view_recall(views, keys, found)) == pytest.approx(np.mean(expected))


def test_a_vote_is_weighted_and_the_unlabelled_have_none():
    labels = torch.tensor([[0, 1, 1], [2, -1, -1], [0, 1, 1]])
    similarity = torch.tensor([[0.9, 0.2, 0.2], [0.1, 0.9, 0.9], [0.9, 0.9, 0.9]])
    assert vote(labels, similarity).tolist() == [0, 2, 1]
