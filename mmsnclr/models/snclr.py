"""SNCLR: soft neighbours, each weighted by its positiveness."""

import math

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmpretrain.registry import MODELS
from torch import Tensor

from .base import Diagnostics, NeighborMethod
from .dist import gather_rows, sum_over_ranks
from .queue import Neighbors
from .snclr_head import NEIGHBORS
from .snclr_loss import Candidates


@MODELS.register_module()
class SNCLR(NeighborMethod):
    """Soft-neighbour contrastive learning.

    `Soft Neighbors are Positive Supporters in Contrastive Visual
    Representation Learning`, ICLR 2023. A view's positives are its other view
    and its K nearest neighbours in a set of past features, each weighted by
    its positiveness; everything else in the global batch is negative.

    Takes the arguments of :class:`NeighborMethod`, with an :class:`SNCLRHead`.
    """

    @property
    def neighbors(self) -> int:
        """K, as the head has it."""
        return self.head.neighbors

    @property
    def weighs(self) -> bool:
        """Whether there are neighbours between which positiveness can be shared."""
        return self.neighbors > 1

    def log_weights(self, projections: Tensor, rows: Tensor, neighbors: Neighbors) -> Tensor:
        """Logarithm of the positiveness of each neighbour (Eq. 4)."""
        if not self.weighs:
            return super().log_weights(projections, rows, neighbors)
        index, _, valid = neighbors
        return self.head.log_weights(projections, Candidates(rows, None, index, valid))

    def compare(
        self, projection: Tensor, keys: Tensor, all_keys: Tensor, ids: Tensor
    ) -> tuple[Tensor, Diagnostics | None]:
        """Soft-neighbour contrastive loss (Eq. 2)."""
        own_key = self.own_key(keys)
        neighbors = self.neighbors_of(keys, ids)
        if neighbors is None:
            return self.head.loss(projection, all_keys, own_key)[0], None
        candidates = self._candidates(neighbors)
        loss, log_weights = self.head.loss(projection, all_keys, own_key, candidates)
        return loss, Diagnostics(neighbors, log_weights)

    @torch.no_grad()
    def _candidates(self, neighbors: Neighbors) -> Candidates:
        """What the whole global batch picked.

        Where ranks share one set, only the number of times that each entry was
        picked travels; where they do not, the features have to.
        """
        index, _, valid = neighbors
        rows = self.queue.features[: self.queue.fill]
        if self.queue.sync:
            return Candidates(rows, sum_over_ranks(self.queue.count(neighbors)), index, valid)
        rows = gather_rows(rows[index.flatten()])
        counts = gather_rows(valid.flatten().int())
        own = torch.arange(index.numel(), device=index.device).view_as(index)
        return Candidates(rows, counts, own + get_rank() * index.numel(), valid)

    @classmethod
    def against_noise(cls, cfg: Config) -> list[str]:
        """A longer warm-up, or fewer neighbours."""
        advice, k = super().against_noise(cfg), cfg.model.head.get('neighbors', NEIGHBORS)
        if k > 2:
            advice.append(f'take fewer with model.head.neighbors={math.ceil(k / 3)} (now {k})')
        return advice
