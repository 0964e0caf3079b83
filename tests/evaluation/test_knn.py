"""Weighted k-NN classification."""

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from mmsnclr.evaluation import evaluate_knn, knn_accuracy


def test_knn_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 8, generator=generator) for n in (200, 50))
    labels, truth = (torch.randint(5, (n,), generator=generator) for n in (200, 50))
    expected = {}
    for k in (5, 20):
        reference = KNeighborsClassifier(
            k, metric='cosine', algorithm='brute', weights=lambda d: np.exp(-d / 0.07)
        )
        reference.fit(F.normalize(bank, dim=1).numpy(), labels.numpy())
        expected[k] = 100 * reference.score(queries.numpy(), truth.numpy())
    assert knn_accuracy(bank, labels, queries, truth, (5, 20), chunk=7) == pytest.approx(expected)
    with pytest.raises(ValueError, match='k=20'):
        knn_accuracy(bank[:5], labels[:5], queries, truth)


@pytest.mark.parametrize('temperature', [1e-2, 1e-4, 1e-10, 1e-300])
def test_at_a_small_temperature_the_nearest_neighbour_decides(temperature):
    bank = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5], [0.6, 0.5]])
    labels = torch.tensor([3, 0, 0, 2])
    queries, truth = torch.tensor([[0.8, 0.5], [-0.1, 0.1]]), torch.tensor([2, 3])
    assert knn_accuracy(bank, labels, queries, truth, (4,), temperature) == {4: 100.0}


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match='temperature=0 must be positive'):
        knn_accuracy(torch.eye(4), torch.arange(4), torch.eye(4), torch.arange(4), (1,), 0)


def test_images_without_labels_are_named(digits):
    cfg = Config.fromfile(ROOT / 'configs/demo/linear_digits.py')
    cfg.model.backbone.init_cfg = None
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(digits / 'labelled')
    cfg.val_dataloader.dataset.with_label = False
    with pytest.raises(ValueError, match='val_dataloader must have labelled images'):
        evaluate_knn(cfg)
