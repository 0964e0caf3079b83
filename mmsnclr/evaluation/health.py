"""Whether pretraining works: measures of features and neighbours, and what they mean."""

import math
from collections.abc import Mapping

import torch
from mmengine.config import Config
from torch import Tensor
from torch.nn import functional as F

from ..models.base import method_of
from ..models.queue import Neighbors


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation of L2-normalised features per dimension, times ``sqrt(D)``.

    Args:
        features: ``(N, D)``, any scale.

    Returns:
        Mean over the dimensions, a scalar: 1 where the features spread evenly
        over the sphere, 0 where they are all the same (collapse).
    """
    features = F.normalize(features, dim=1)
    return features.std(dim=0, unbiased=False).mean() * math.sqrt(features.size(1))


def effective_rank(features: Tensor) -> Tensor:
    """RankMe: in how many directions features extend.

    The exponential of the entropy of the singular values, which are divided by
    their sum (Garrido et al., RankMe: Assessing the Downstream Performance of
    Pretrained Self-Supervised Representations by Their Rank, ICML 2023).

    Args:
        features: ``(N, D)``.

    Returns:
        A scalar from 1 to ``min(N, D)``.
    """
    if not features.isfinite().all():
        return features.new_tensor(math.nan)
    values = torch.linalg.svdvals(features)
    return torch.special.entr(values / values.sum().clamp(min=1e-30)).sum().exp()


def positiveness_entropy(log_weights: Tensor, valid: Tensor) -> Tensor:
    """Entropy of how the positiveness (Eq. 4) is shared among the neighbours.

    Args:
        log_weights: ``log(w)``, ``(N, K)``.
        valid: ``False`` where there is no neighbour, ``(N, K)``.

    Returns:
        Mean over the instances in nats, a scalar up to ``log(K)``, where all
        neighbours count the same.
    """
    share = log_weights.masked_fill(~valid, -torch.inf).softmax(dim=1)
    return torch.special.entr(share[valid.any(dim=1)]).sum(dim=1).mean()


def pair_similarity(features: Tensor) -> Tensor:
    """Mean cosine similarity of all pairs, what an unrelated neighbour would have.

    Args:
        features: ``(N, D)``, any scale, N at least 2.

    Returns:
        A scalar.
    """
    count = len(features)
    total = F.normalize(features, dim=1).sum(dim=0).square().sum()
    return (total - count) / (count * (count - 1))


def view_recall(views: Tensor, keys: Tensor, neighbors: Neighbors) -> Tensor:
    """How often an image's other view is nearer to its key than the K-th neighbour.

    Features that cannot tell an image from others cannot find its neighbours
    either: where those are noise, this is hardly more than K over the number
    of entries in the set.

    Args:
        views: Features of the other view, ``(N, D)``, any scale.
        keys: The queries, L2-normalised, ``(N, D)``.
        neighbors: What was found for the queries.

    Returns:
        A share, a scalar.
    """
    own = (F.normalize(views, dim=1) * keys).sum(dim=1)
    last = neighbors.similarity.masked_fill(~neighbors.valid, torch.inf).amin(dim=1)
    return (own > last).float().mean()


def findings(values: Mapping[str, float], cfg: Config) -> dict[str, str]:
    """What is wrong with a training, in words, and which setting to change to what.

    Args:
        values: What :class:`~mmsnclr.engine.hooks.HealthHook` logged at one step;
            what is missing is not judged.
        cfg: The config of the run, which gives the method.

    Returns:
        Sentences by condition: ``'diverged'``, ``'collapsed'``, ``'noise'``.
        Empty where nothing is wrong.
    """
    lr = cfg.optim_wrapper.optimizer.lr
    slower = f'optim_wrapper.optimizer.lr={lr / 3:.2g} (now {lr:.2g})'
    std = values.get('feature_std')
    if std is not None and not math.isfinite(std):
        return dict(
            diverged='Training has diverged: features are no longer finite. Start again with '
            f'{slower}, or with optim_wrapper.clip_grad.max_norm=1.'
        )
    extent = None if std is None else _collapse(std, values['effective_rank'], cfg)
    if extent is not None:
        return dict(
            collapsed=f'Training has {extent} (feature_std {std:.2f}, which is 1 where they spread '
            f'evenly; effective rank {values["effective_rank"]:.1f} of {cfg.model.queue.dim}). '
            f'Start again with {_against_collapse(cfg, slower)}.'
        )
    reason = _noise(values)
    if reason is None:
        return {}
    method = method_of(cfg)
    advice = method.against_noise(cfg) if method else []
    advice = f'If this lasts, {", or ".join(advice)}.' if advice else ''
    return dict(noise=f'The neighbours are noise: {reason}. {advice}')


def _collapse(std: float, rank: float, cfg: Config) -> str | None:
    """How far features have collapsed, ``None`` where they have not."""
    if std < 0.1 or rank < 1.5:
        return 'collapsed: the features of different images are almost the same'
    # Either alone is no illness: features may have a mean, and images few kinds.
    if std < 0.65 and rank < cfg.model.queue.dim / 10:
        return 'partly collapsed: the features of different images are much alike'
    return None


def _against_collapse(cfg: Config, slower: str) -> str:
    decay = cfg.optim_wrapper.optimizer.get('weight_decay') or 0
    advice = [slower]
    if decay > 0.1:
        advice.append(f'optim_wrapper.optimizer.weight_decay={1e-4:g} (now {decay:g})')
    method = method_of(cfg)
    return ' and '.join(advice + (method.against_collapse(cfg) if method else []))


def _noise(values: Mapping[str, float]) -> str | None:
    """Why neighbours are no better than random entries, if they are not."""
    purity, chance = values.get('neighbor_purity'), values.get('chance_purity')
    if purity is not None and chance is not None and chance < 0.9:
        # Labels decide where there are some.
        if purity < chance + 0.05 * (1 - chance):
            return (
                f'{100 * purity:.0f} % of them are of the class of their query, of random images '
                f'{100 * chance:.0f} % would be'
            )
        return None
    recall, chance = values.get('view_recall'), values.get('chance_recall')
    if recall is None or chance is None:
        return None
    if recall < max(2 * chance, 0.05) and chance < 0.5:
        return (
            f'to only {100 * recall:.0f} % of the images is their own other view nearer than the '
            f'last neighbour, by chance it would be {100 * chance:.1f} %'
        )
    return None
