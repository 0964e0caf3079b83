"""SCE: the similarities of the target view are what the prediction has to match."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from .base import NeighborMethod
from .precision import exact_float32
from .snclr_loss import log_sum_exp, streaming_softmax

# The authors' lambda, the share of the own key.
_CONTRAST = 0.5


def sce_loss(
    prediction: Tensor,
    key: Tensor,
    rows: Tensor,
    temperature: float,
    target_temperature: float,
    contrast: float,
) -> Tensor:
    r"""Similarity contrastive estimation of one view order.

    ``-sum_k w_ik log p_ik`` over an instance's own key (k = i) and the queue
    (k != i), with ``p_ik = softmax_k(z1_i . z2_k / t)``, ``w_ii = lambda`` and
    ``w_ik = (1 - lambda) softmax_{k != i}(z2_i . z2_k / t_m)`` (arXiv
    2111.14585). The sum over the queue is ``z1_i . m_i / t`` with ``m_i`` the
    mean of the queue under the target's softmax, so no target is laid out.

    Args:
        prediction: Online features ``z1``, L2-normalised, ``(N, D)``.
        key: Momentum features ``z2`` of the target view, ``(N, D)``.
        rows: The queue, ``(C, D)``.
        temperature: ``t``.
        target_temperature: ``t_m``.
        contrast: ``lambda``, the share of the own key.

    Returns:
        Mean over the N instances, a scalar.
    """
    own_logit = (prediction * key).sum(dim=1) / temperature
    others = log_sum_exp(prediction, rows, temperature)
    _, mean = streaming_softmax(key, rows, target_temperature)
    expected_logit = (prediction * mean).sum(dim=1) / temperature
    expected_logit = contrast * own_logit + (1 - contrast) * expected_logit
    return (torch.logaddexp(own_logit, others) - expected_logit).mean()


@MODELS.register_module()
class SCEHead(BaseModule):
    """Head of SCE.

    Args:
        temperature: ``t``.
        target_temperature: ``t_m``, lower than ``t``; the authors use 0.04 to 0.07.
        contrast: ``lambda``, the share of the own key in the target.
        predictor: Config of a predictor; the method's basic form has none.
        init_cfg: Initialisation config.

    Raises:
        ValueError: If an argument is out of its domain.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        target_temperature: float = 0.05,
        contrast: float = _CONTRAST,
        predictor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if min(temperature, target_temperature) <= 0:
            raise ValueError(
                f'head.temperature={temperature} and head.target_temperature='
                f'{target_temperature} must be positive'
            )
        if not 0 <= contrast <= 1:
            raise ValueError(f'head.contrast={contrast} must lie between 0 and 1')
        self.temperature = temperature
        self.target_temperature = target_temperature
        self.contrast = contrast
        self.predictor = None if predictor is None else MODELS.build(predictor)

    def loss(self, projection: Tensor, key: Tensor, rows: Tensor) -> Tensor:
        """Loss of one view order, in full float32 whatever is allowed elsewhere.

        Args:
            projection: Online projections, ``(N, D)``, any scale.
            key: Normalised momentum projections of the target view, ``(N, D)``.
            rows: The queue, ``(C, D)``.

        Returns:
            A scalar.
        """
        if self.predictor is not None:
            projection = self.predictor((projection,))[0]
        with exact_float32(projection.device):
            prediction = F.normalize(projection.float(), dim=1)
            return sce_loss(
                prediction, key, rows, self.temperature, self.target_temperature, self.contrast
            )


@MODELS.register_module()
class SCE(NeighborMethod):
    """Similarity contrastive estimation.

    `Similarity Contrastive Estimation for Self-Supervised Soft Contrastive
    Learning`, WACV 2023 (arXiv 2111.14585). The second view is the target and
    should be weakly augmented; the first, and with multi-crop all further
    views, are compared with it.

    Args:
        *args: Those of :class:`NeighborMethod`, with an :class:`SCEHead`.
        symmetric: Whether the first view is a target too. Its keys are not
            enqueued, where the authors' code enqueues both targets'.
        **kwargs: Those of :class:`NeighborMethod`.
    """

    neighbors = None  # every entry of the set counts, by its similarity

    def __init__(self, *args: Any, symmetric: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets = (0, 1) if symmetric else (1,)

    def loss(self, inputs: list[Tensor], data_samples: list) -> dict[str, Tensor]:
        """Loss of a batch, averaged over pairs of a view and a target.

        Args:
            inputs: The views, each ``(N, 3, H, W)``; the second is the target,
                sizes of further ones may differ.
            data_samples: One for each image.

        Returns:
            ``loss``, a scalar.
        """
        pairs = sum(view != target for view in range(len(inputs)) for target in self.targets)
        return dict(loss=super().loss(inputs, data_samples)['loss'] / pairs)

    def compare(
        self, projection: Tensor, keys: Tensor, all_keys: Tensor, ids: Tensor
    ) -> tuple[Tensor, None]:
        """Similarity contrastive estimation against the set."""
        # Until the queue holds something, the batch's keys, its own among them, stand for it.
        rows = self.queue.features[: self.queue.fill] if self.queue.fill else all_keys
        return self.head.loss(projection, keys, rows), None

    @classmethod
    def against_noise(cls, cfg: Config) -> list[str]:
        """A larger share of the own key."""
        contrast = cfg.model.head.get('contrast', _CONTRAST)
        more = f'model.head.contrast={(1 + contrast) / 2:g} (now {contrast:g})'
        return [f'let them count less: {more}']
