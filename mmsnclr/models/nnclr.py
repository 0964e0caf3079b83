"""NNCLR: the nearest neighbour takes the key's place."""

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from ..utils.dist import gather_rows
from .algorithm import SNCLR, Diagnostics


@MODELS.register_module()
class NNCLR(SNCLR):
    """Nearest-neighbour contrastive learning, on SNCLR's candidate set.

    `With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning
    of Visual Representations`, ICCV 2021. Each key is replaced by its nearest
    neighbour in the set (by itself where there is none), and the prediction is
    compared with these by InfoNCE. Use ``head.neighbors=1``; the paper has no
    momentum encoder, which is ``momentum_coefficient=0``.

    Takes the arguments of :class:`SNCLR`.

    Raises:
        ValueError: If ``head.neighbors`` is not 1.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.head.neighbors != 1:
            raise ValueError(f'head.neighbors={self.head.neighbors}: NNCLR has 1')

    def _one_order(
        self,
        projection: Tensor,
        keys: Tensor,
        all_keys: Tensor,
        ids: Tensor | None,
    ) -> tuple[Tensor, Diagnostics | None]:
        if not self.use_neighbors or self.queue.fill < 1:
            return super()._one_order(projection, keys, all_keys, ids)
        found = self.queue.search(keys, ids, 1)
        nearest = self.queue.features[found.index[:, 0]].to(keys)
        supports = gather_rows(torch.where(found.valid, nearest, keys))
        loss, _ = self.head.loss(projection, supports, self._own_key(keys))
        return loss, Diagnostics(found, torch.zeros_like(found.similarity))
