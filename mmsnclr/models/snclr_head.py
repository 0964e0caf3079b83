"""Predictor, positiveness and loss: from projections to the training signal."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import exact_float32, products
from .snclr_loss import Candidates, log_positiveness, neighbor_scores

# The paper's K.
NEIGHBORS = 30


@MODELS.register_module()
class SNCLRHead(BaseModule):
    """Head of SNCLR (Sec. 3.2): predicts, weighs the neighbours, compares.

    Args:
        predictor: Config of the predictor; ``out_channels`` is the width of
            the features.
        loss: Config of the loss.
        neighbors: K, the number of neighbours; the paper uses 30.
        positiveness: ``'attention'`` (Eq. 4, default) or ``'uniform'``, which
            gives every neighbour weight 1 (the ablation of table 4).
        positiveness_temperature: By which the scores of Eq. 4 are divided, which
            has none (1.0). Features have length 1, so at 1.0 all neighbours weigh
            almost alike; the lower, the more the nearest count.
        gamma: Scaling factor of Eq. 4, one float or K of them.
        projection: ``None`` for the identity mappings of Eq. 4 (default) or
            ``'linear'`` for parametric ``f1`` and ``f2``, which the paper
            tried and found inferior; they start as the identity.
        init_cfg: Initialisation config.

    Raises:
        ValueError: If an argument is out of its domain, or if ``'linear'``
            projections could never learn under the other settings.
    """

    def __init__(
        self,
        predictor: dict,
        loss: dict,
        neighbors: int = NEIGHBORS,
        positiveness: str = 'attention',
        positiveness_temperature: float = 1.0,
        gamma: float | Sequence[float] = 1.0,
        projection: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if neighbors < 1:
            raise ValueError(f'head.neighbors={neighbors} must be at least 1')
        if positiveness not in ('attention', 'uniform'):
            raise ValueError(f"head.positiveness={positiveness!r} must be 'attention' or 'uniform'")
        if projection not in (None, 'linear'):
            raise ValueError(f"head.projection={projection!r} must be None or 'linear'")
        if positiveness_temperature <= 0:
            raise ValueError(
                f'head.positiveness_temperature={positiveness_temperature} must be positive'
            )
        gamma = torch.as_tensor(gamma, dtype=torch.float32)
        if gamma.numel() not in (1, neighbors) or not bool((gamma > 0).all()):
            raise ValueError(
                f'head.gamma must be one positive float or {neighbors} of them '
                f'(head.neighbors={neighbors}), not {gamma.tolist()}'
            )
        self.predictor = MODELS.build(predictor)
        self.loss_module = MODELS.build(loss)
        self.neighbors = neighbors
        self.positiveness = positiveness
        self.positiveness_temperature = positiveness_temperature
        self.register_buffer('log_gamma', gamma.log(), persistent=False)

        self.projections: nn.ModuleList | None = None
        if projection == 'linear':
            weighs = positiveness == 'attention' and neighbors > 1  # one gets the weight 1
            if not weighs or self.loss_module.neighbors_in == 'negatives':
                raise ValueError(
                    "head.projection='linear' learns through the positiveness alone: it needs "
                    "head.positiveness='attention', head.neighbors > 1 and "
                    "head.loss.neighbors_in='both' or 'positives'"
                )
            dim = predictor['out_channels']
            self.projections = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(2))

    @property
    def temperature(self) -> float:
        """``t``, as the loss has it."""
        return self.loss_module.temperature

    def init_weights(self) -> None:
        """Initialise, starting parametric projections as the identity."""
        super().init_weights()
        for projection in self.projections or ():
            nn.init.eye_(projection.get_parameter('weight'))

    def loss(
        self,
        projection: Tensor,
        keys: Tensor,
        own_key: Tensor,
        candidates: Candidates | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Loss of one view order.

        Args:
            projection: Online projections ``y1``, ``(N, D)``, any scale.
            keys: Normalised momentum projections of the other view of the
                global batch, ``(M, D)``.
            own_key: Position in ``keys`` of each instance's key, ``(N,)``.
            candidates: Neighbours of the global batch, or ``None`` to leave
                them out.

        Returns:
            The loss, and ``log(w)`` of the neighbours, ``(N, K)`` without
            gradient (``None`` without neighbours).
        """
        prediction = self.predict(projection)
        if candidates is None:
            loss = self.loss_module(prediction, keys, own_key)
            if self.projections is not None:
                # Keeps the projections in the graph, which DDP insists on.
                loss = loss + 0.0 * sum(weight.sum() for weight in self.projections.parameters())
            return loss, None
        log_weights = self.log_weights(projection, candidates)
        loss = self.loss_module(prediction, keys, own_key, candidates, log_weights)
        return loss, log_weights.detach()

    def predict(self, projection: Tensor) -> Tensor:
        """Normalised predictions ``z1`` of online projections, ``(N, D)`` each."""
        return F.normalize(self.predictor((projection,))[0].float(), dim=1)

    def log_weights(self, projection: Tensor, candidates: Candidates) -> Tensor:
        """Logarithm of the positiveness of each instance's neighbours (Eq. 4).

        Args:
            projection: Online projections ``y1``, ``(N, D)``, any scale.
            candidates: The neighbours; ``rows``, ``own`` and ``valid`` are read.

        Returns:
            ``log(w)``, ``(N, K)``.
        """
        with exact_float32(projection.device):
            query = F.normalize(projection.float(), dim=1)
            if self.projections is not None:
                # f1(y1) . f2(n) is f2^T f1 y1 . n, so that no neighbour has to be projected.
                first, second = self.projections.parameters()
                query = products(products(query, first), second.T)
            scores = neighbor_scores(query, candidates)
            log_weights = log_positiveness(
                scores, candidates.valid, self.log_gamma, self.positiveness_temperature
            )
        if self.positiveness == 'uniform':
            log_weights = torch.where(candidates.valid, 0.0, log_weights)
        return log_weights
