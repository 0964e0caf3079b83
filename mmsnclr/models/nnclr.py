"""NNCLR: the nearest neighbour takes the key's place."""

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from .algorithm import SNCLR, Diagnostics
from .dist import gather_rows_with_gradient


@MODELS.register_module()
class NNCLR(SNCLR):
    """Nearest-neighbour contrastive learning, on SNCLR's candidate set.

    `With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning
    of Visual Representations`, ICCV 2021. Each key is replaced by its nearest
    neighbour in the set (by itself where there is none), which has to find its
    image's prediction among those of the whole batch, by InfoNCE:
    ``-log( exp(NN(y2) . z1 / t) / sum_k exp(NN(y2) . z1_k / t) )``. Use
    ``head.neighbors=1``; the paper has no momentum encoder, which is
    ``momentum_coefficient=0``.

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
        supports, diagnostics = keys, None
        if self.use_neighbors and self.queue.fill:
            found = self.queue.search(keys, ids, 1)
            nearest = self.queue.features[found.index[:, 0]].to(keys)
            supports = torch.where(found.valid, nearest, keys)
            diagnostics = Diagnostics(found, torch.zeros_like(found.similarity))
        predictions = gather_rows_with_gradient(self.head.predict(projection))
        return self.head.loss_module(supports, predictions, self._own_key(keys)), diagnostics
