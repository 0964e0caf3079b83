"""Weighted k-nearest-neighbour classification."""

import copy
from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from ..backbones import check_pretrained
from ..checkpoints import at_hand
from ..parents import quiet
from .features import extract_features


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    ks: Sequence[int] = (20,),
    temperature: float = 0.07,
    chunk: int = 256,
) -> dict[int, float]:
    """Top-1 accuracy of weighted k-NN classifiers.

    Args:
        bank: See :func:`knn_classes`.
        bank_labels: Likewise.
        queries: Likewise.
        query_labels: Classes of the images to classify, ``(M,)``.
        ks: See :func:`knn_classes`.
        temperature: Likewise.
        chunk: Likewise.

    Returns:
        Accuracy in percent for each number of neighbours.

    Raises:
        ValueError: If the bank has fewer images than ``max(ks)``, or the
            temperature is not positive.
    """
    predicted = knn_classes(bank, bank_labels, queries, ks, temperature, chunk)
    right = {k: int((classes == query_labels.cpu()).sum()) for k, classes in predicted.items()}
    return {k: 100 * count / len(queries) for k, count in right.items()}


@torch.no_grad()
def knn_classes(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int] = (20,),
    temperature: float = 0.07,
    chunk: int = 256,
) -> dict[int, Tensor]:
    """Classes by weighted k-NN classifiers, in one search for all of them.

    Each of the k nearest by cosine similarity s votes with weight
    ``exp(s / temperature)`` (Wu et al., Unsupervised Feature Learning via
    Non-Parametric Instance Discrimination, CVPR 2018). Works on the device of
    ``bank``.

    Args:
        bank: Features of the labelled images, ``(N, C)``.
        bank_labels: Their classes, ``(N,)``.
        queries: Features of the images to classify, ``(M, C)``.
        ks: Numbers of voting neighbours.
        temperature: How much similarity weighs.
        chunk: Number of queries at a time, which bounds the memory.

    Returns:
        Classes ``(M,)``, on the CPU, for each number of neighbours.

    Raises:
        ValueError: If the bank has fewer images than ``max(ks)``, or the
            temperature is not positive.
    """
    most = max(ks)
    if temperature <= 0:
        raise ValueError(f'temperature={temperature} must be positive')
    if len(bank) < most:
        raise ValueError(
            f'k={most} neighbours need at least as many labelled images, not {len(bank)}'
        )
    bank, bank_labels = F.normalize(bank, dim=1), bank_labels.to(bank.device)
    predicted: dict[int, list[Tensor]] = {k: [] for k in ks}
    for part in F.normalize(queries, dim=1).split(chunk):
        similarity, index = (part.to(bank.device) @ bank.T).topk(most, dim=1)
        nearest = bank_labels[index]
        for k in ks:
            predicted[k].append(vote(nearest[:, :k], similarity[:, :k], temperature))
    return {k: torch.cat(parts).cpu() for k, parts in predicted.items()}


def vote(labels: Tensor, similarity: Tensor, temperature: float = 0.07) -> Tensor:
    """Class that the neighbours vote for, each with weight ``exp(s / temperature)``.

    Args:
        labels: Classes of the neighbours, ``(N, K)``; -1 has no vote.
        similarity: Their cosine similarity s, ``(N, K)``; ``-inf`` has no vote.
        temperature: How much similarity weighs.

    Returns:
        Classes, ``(N,)``.
    """
    similarity = similarity.double().masked_fill(labels < 0, -torch.inf)
    # Relative to the nearest's, which does not underflow at any temperature.
    gaps = (similarity - similarity.amax(dim=1, keepdim=True)).nan_to_num(-torch.inf)
    weights = (gaps / temperature).exp()
    votes = weights.new_zeros(len(labels), max(int(labels.max()), 0) + 1)
    return votes.scatter_add_(1, labels.clamp(min=0), weights).argmax(dim=1)


def evaluate_knn(
    cfg: Config,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
) -> dict[int, float]:
    """k-NN accuracy of the backbone of a classification config.

    Args:
        cfg: A config whose ``train_dataloader`` has the voting images (they get
            the validation pipeline), whose ``val_dataloader`` has those to
            classify, and whose backbone may have a ``Pretrained``
            initialisation.
        ks: Numbers of voting neighbours to try.
        temperature: How much similarity weighs.

    Returns:
        Top-1 accuracy in percent for each number of neighbours.

    Raises:
        ValueError: If the checkpoint does not fill the backbone, or if there
            are fewer labelled images than voting neighbours.
    """
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)  # for a backbone without checkpoint
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=cfg.model.backbone,
            data_preprocessor=cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor'),
        )
    )
    with at_hand(*check_pretrained(model)), quiet():
        model.init_weights()
    model.to('cuda' if torch.cuda.is_available() else 'cpu')
    bank_loader = copy.deepcopy(cfg.train_dataloader)
    bank_loader.dataset.pipeline = cfg.val_dataloader.dataset.pipeline
    bank_loader.sampler = dict(type='DefaultSampler', shuffle=False)
    bank, bank_labels = extract_features(model, Runner.build_dataloader(bank_loader))
    queries, labels = extract_features(model, Runner.build_dataloader(cfg.val_dataloader))
    if bank_labels is None or labels is None:
        raise ValueError('train_dataloader and val_dataloader must have labelled images')
    bank = bank.to(next(model.parameters()).device)
    return knn_accuracy(bank, bank_labels, queries, labels, ks, temperature)
