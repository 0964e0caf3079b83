"""NNCLR: the nearest neighbour takes the key's place."""

from typing import Any

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor

from .base import NeighborMethod
from .dist import gather_rows_with_gradient


@MODELS.register_module()
class NNCLR(NeighborMethod):
    """Nearest-neighbour contrastive learning.

    `With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning
    of Visual Representations`, ICCV 2021. Each key is replaced by its nearest
    neighbour in the set (by itself where there is none), which has to find its
    image's prediction among those of the whole batch, by InfoNCE:
    ``-log( exp(NN(y2) . z1 / t) / sum_k exp(NN(y2) . z1_k / t) )``. The paper
    has no momentum encoder, which is ``momentum_coefficient=0``.

    Whoever compares: this is the equation, whose only negatives are the other
    images' predictions. lightly's ``NTXentLoss``, which its NNCLR example uses,
    is another loss: SimCLR's, whose denominator holds the other images' rows of
    both of its inputs, the neighbours' similarities to each other among them.

    Takes the arguments of :class:`NeighborMethod`, with an :class:`SNCLRHead`
    of ``neighbors=1``.

    Raises:
        ValueError: If ``head.neighbors`` is not 1.
    """

    neighbors = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.head.neighbors != self.neighbors:
            raise ValueError(f'head.neighbors={self.head.neighbors}: NNCLR has 1')

    def compare(
        self, projection: Tensor, keys: Tensor, all_keys: Tensor, ids: Tensor
    ) -> tuple[Tensor, None]:
        """InfoNCE between the keys' nearest neighbours and the predictions."""
        supports, found = keys, self.neighbors_of(keys, ids)
        if found is not None:
            nearest = self.queue.features[found.index[:, 0]].to(keys)
            supports = torch.where(found.valid, nearest, keys)
        predictions = gather_rows_with_gradient(self.head.predict(projection))
        return self.head.loss_module(supports, predictions, self.own_key(keys)), None

    @classmethod
    def against_collapse(cls, cfg: Config) -> list[str]:
        """Nothing: there is no momentum encoder by design."""
        return []
