"""What methods on a set of past features share; see :class:`NeighborMethod`."""

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.logging import print_log
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..datasets.image_id import image_id
from .backbone import TIMMRepresentation, freeze_fixed_positions, freeze_patch_embed
from .dist import gather_rows
from .queue import UNKNOWN, Neighbors
from .sync_batch_norm import replace_sync_batch_norm

_MOMENTUM_COEFFICIENT = 0.99  # SNCLR's for ResNet-50


class Diagnostics(NamedTuple):
    """The neighbours that the last step weighed, for logging only.

    Attributes:
        neighbors: Neighbours of the first order's queries.
        log_weights: ``log(w)`` of these, ``(N, K)``.
    """

    neighbors: Neighbors
    log_weights: Tensor


class Step(NamedTuple):
    """What the last step compared in its first order on this rank, for logging only.

    Attributes:
        projections: Online projections of the first view, ``(N, D)``.
        keys: Normalised momentum projections of the other, ``(N, D)``.
        ids: Identity of each image, ``(N,)``, -1 where unknown.
        labels: Class of each image, ``(N,)``, -1 where unknown.
    """

    projections: Tensor
    keys: Tensor
    ids: Tensor
    labels: Tensor


class NeighborMethod(BaseSelfSupervisor):
    """A method that compares images with their neighbours among past features.

    Two views of each image pass an online and a momentum encoder; the latter's
    features, the keys, enter the candidate set. This class owns the encoders,
    the set, the images' identities and the loop over views. A method says what
    it makes of neighbours:

    - :meth:`compare`, the loss of one view's projections against the keys of
      another; :meth:`neighbors_of` finds neighbours for it.
    - :attr:`neighbors`, how many it looks up.
    - :attr:`targets`, if not every pair of the first two views is compared.
    - :attr:`weighs` and :meth:`log_weights`, if neighbours count differently.
    - :meth:`against_noise` and :meth:`against_collapse`, if other settings
      help it than most methods.

    Needs :class:`~mmsnclr.engine.hooks.NeighborQueueHook` in ``custom_hooks``, which
    calls :meth:`after_optimizer_step`.

    Args:
        backbone: Config of the backbone.
        neck: Config of the projector; ``in_channels=None`` takes the width of a
            :class:`TIMMRepresentation`.
        head: Config of the head.
        queue: Config of the candidate neighbour set.
        momentum_coefficient: Share of the momentum encoder that an update
            keeps; SNCLR fixes 0.99 for ResNet-50. (mmpretrain's ``momentum`` is
            1 minus this.)
        end_momentum_coefficient: If given, the coefficient rises to it by a
            half cosine over the training; SNCLR's released code goes to 1.
        frozen_patch_embed: Whether a ViT's patch projection stays as it is initialised,
            against instability (MoCo v3, arXiv 2104.02057, Sec. 4).
        channels_last: Whether convolutions work in channels-last layout, which
            is faster under mixed precision on CUDA, and on CPUs.
        compile_backbone: Whether ``torch.compile`` translates the backbone and
            its momentum copy.
        data_preprocessor: Config of what moves and normalises images; its type is
            :class:`ViewsDataPreprocessor` if it names none.
        **kwargs: Further arguments of mmpretrain's ``BaseSelfSupervisor``.

    Attributes:
        use_neighbors: Whether neighbours are used yet, or a warm-up goes on.
        diagnostics: What was weighed in the last step; ``None`` if nothing was.
        last_step: What was compared in the last step.

    Raises:
        ValueError: If K exceeds the set's length, a coefficient is not in
            [0, 1], or the neck's width is missing.
    """

    # Views whose keys the others are compared with; those of the last are enqueued.
    targets: tuple[int, ...] = (0, 1)
    # More micro-batches than this without an optimiser step: the hook is missing.
    _max_pending = 256

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        queue: dict,
        momentum_coefficient: float = _MOMENTUM_COEFFICIENT,
        end_momentum_coefficient: float | None = None,
        frozen_patch_embed: bool = False,
        channels_last: bool = False,
        compile_backbone: bool = False,
        data_preprocessor: dict | nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        backbone = MODELS.build(backbone)
        freeze_fixed_positions(backbone)
        if frozen_patch_embed:
            freeze_patch_embed(backbone)
        if neck.get('in_channels') is None:
            if not isinstance(backbone, TIMMRepresentation):
                raise ValueError(
                    'set model.neck.in_channels to the width that the backbone puts out'
                )
            neck = dict(neck, in_channels=backbone.out_channels)
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = dict(type='ViewsDataPreprocessor') | (data_preprocessor or {})
        super().__init__(
            backbone=backbone, neck=neck, head=head, data_preprocessor=data_preprocessor, **kwargs
        )
        for name, value in (
            ('momentum_coefficient', momentum_coefficient),
            ('end_momentum_coefficient', end_momentum_coefficient),
        ):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f'model.{name}={value} must lie between 0 and 1')
        replace_sync_batch_norm(self)  # all ranks have batches of the same shape
        self.queue = MODELS.build(queue)
        if self.neighbors is not None and self.neighbors > self.queue.length:
            raise ValueError(
                f"neighbors={self.neighbors} exceeds the candidate set's length "
                f'{self.queue.length}; lower model.head.neighbors or raise model.queue.length'
            )
        # Ranks fill their sets alike or each its own; DDP must neither copy rank 0's nor send it.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self, [f'queue.{name}' for name, _ in self.queue.named_buffers()]
        )
        self.momentum_coefficient = momentum_coefficient
        self.end_momentum_coefficient = end_momentum_coefficient
        self.momentum_encoder = copy.deepcopy(self.online_encoder)
        self.momentum_encoder.requires_grad_(False)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self._layout)
        if compile_backbone:
            self.backbone.compile()
            self.momentum_encoder[0].compile()
        self.use_neighbors = True
        self.diagnostics: Diagnostics | None = None
        self.last_step: Step | None = None
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._told_no_ids = False

    @property
    @abstractmethod
    def neighbors(self) -> int | None:
        """K, the number of neighbours; ``None`` if every entry of the set counts."""

    @abstractmethod
    def compare(
        self, projection: Tensor, keys: Tensor, all_keys: Tensor, ids: Tensor
    ) -> tuple[Tensor, Diagnostics | None]:
        """Compare one view's projections with the keys of another.

        Args:
            projection: Online projections of a view, ``(N, D)``, any scale.
            keys: Normalised momentum projections of another, ``(N, D)``.
            all_keys: Those of the global batch, ``(M, D)``.
            ids: Identity of each image, ``(N,)``, -1 where unknown.

        Returns:
            The loss, a mean over the N images, and what was weighed, if anything was.
        """

    def log_weights(self, projections: Tensor, rows: Tensor, neighbors: Neighbors) -> Tensor:
        """Logarithm of how much each neighbour counts, ``(N, K)``; their similarity by default.

        Of online projections ``(N, D)``, any scale, and neighbours found among ``rows`` ``(C, D)``.
        """
        return neighbors.similarity

    @classmethod
    def against_noise(cls, cfg: Config) -> list[str]:
        """What may help a run where neighbours are noise: half sentences, each enough by itself."""
        advice = []
        for number, hook in enumerate(cfg.get('custom_hooks') or ()):
            if hook.type == 'NeighborQueueHook' and 'max_epochs' in cfg.train_cfg:
                m, epochs = hook.get('warmup_epochs', 0), cfg.train_cfg.max_epochs
                longer = min(max(2 * m, math.ceil(epochs / 10)), epochs)
                advice.append(
                    'leave them out for longer with '
                    f'custom_hooks.{number}.warmup_epochs={longer} (now {m})'
                )
        return advice

    @classmethod
    def against_collapse(cls, cfg: Config) -> list[str]:
        """What may help a collapsed run beside the optimiser's settings, all to be changed."""
        coefficient = cfg.model.get('momentum_coefficient', _MOMENTUM_COEFFICIENT)
        if coefficient >= 0.9:
            return []
        return [f'model.momentum_coefficient={_MOMENTUM_COEFFICIENT} (now {coefficient:g})']

    @property
    def weighs(self) -> bool:
        """Whether K neighbours share what counts, as :meth:`log_weights` says."""
        return False

    @property
    def online_encoder(self) -> nn.Sequential:
        """Backbone and projector, which learn by gradients."""
        return nn.Sequential(self.backbone, self.neck)

    def init_weights(self) -> None:
        """Initialise the online branch and start the momentum branch from it."""
        # In another layout the same seed would draw other weights.
        self.to(memory_format=torch.contiguous_format)
        super().init_weights()
        self.to(memory_format=self._layout)
        self.momentum_encoder.load_state_dict(self.online_encoder.state_dict())

    def loss(self, inputs: list[Tensor], data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Loss of a batch, summed over pairs of a view and another one's keys.

        Args:
            inputs: The views, each ``(N, 3, H, W)``; sizes may differ from the third on.
            data_samples: One for each image; ``img_path`` or ``sample_idx``
                tells images apart, ``gt_label`` is for diagnostics only.

        Returns:
            ``loss``, a scalar averaged over the N images.
        """
        ids, labels = self._identify(data_samples or [{}] * len(inputs[0]), inputs[0].device)
        keys = {target: self._keys(inputs[target]) for target in self.targets}
        all_keys = {target: gather_rows(key) for target, key in keys.items()}
        total: Any = 0.0
        self.diagnostics, self.last_step = None, None
        for number, view in enumerate(inputs):
            others = [target for target in self.targets if target != number]
            if not others:
                continue
            projection = self.neck(self.backbone(view))[0]
            for target in others:
                loss, diagnostics = self.compare(projection, keys[target], all_keys[target], ids)
                total = total + loss
                self.diagnostics = self.diagnostics or diagnostics
                self.last_step = self.last_step or Step(
                    projection.detach(), keys[target], ids, labels
                )
        if self.training:
            last = self.targets[-1]
            self._keep_for_queue(keys[last], all_keys[last], ids, labels)
        return dict(loss=total)

    @torch.no_grad()
    def _keys(self, view: Tensor) -> Tensor:
        keys = F.normalize(self.momentum_encoder(view)[0].float(), dim=1)
        if keys.size(1) != self.queue.dim:
            raise ValueError(
                f'the neck gives features of width {keys.size(1)}, the candidate set holds '
                f'{self.queue.dim}: set model.queue.dim={keys.size(1)}'
            )
        return keys

    def neighbors_of(self, keys: Tensor, ids: Tensor) -> Neighbors | None:
        """Find the K nearest entries of the candidate set for normalised keys ``(N, D)``.

        ``None`` in the warm-up, and while the set holds fewer than K.
        """
        if not self.use_neighbors or self.queue.fill < self.neighbors:
            return None
        return self.queue.search(keys, ids, self.neighbors)

    @staticmethod
    def own_key(keys: Tensor) -> Tensor:
        """Positions of this rank's keys among those of all ranks, ``(N,)``."""
        return torch.arange(len(keys), device=keys.device) + get_rank() * len(keys)

    def _identify(self, samples: Sequence[Mapping], device: torch.device) -> tuple[Tensor, Tensor]:
        """Identity and class of each image, ``(N,)`` each, -1 where unknown.

        Both always, as all ranks have to gather alike whatever images they got.
        """
        ids = [image_id(sample) for sample in samples]
        if None in ids and not self._told_no_ids:
            self._told_no_ids = True
            print_log(
                'Images have neither img_path nor sample_idx, so an image may become its own '
                "neighbour; list one of them in PackInputs' meta_keys.",
                logger='current',
                level=logging.WARNING,
            )
        ids = torch.tensor([UNKNOWN if number is None else number for number in ids])
        labels = [sample.get('gt_label') for sample in samples]
        known = [label for label in labels if label is not None and label.numel() == 1]
        unknown = (known or [ids])[0].new_full((1,), UNKNOWN)
        labels = [unknown if label is None or label.numel() != 1 else label for label in labels]
        labels = torch.cat(labels).long()
        return ids.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def _keep_for_queue(self, keys: Tensor, all_keys: Tensor, ids: Tensor, labels: Tensor) -> None:
        """Set view 2's keys aside until the optimiser has stepped."""
        if len(self._pending) >= self._max_pending:
            raise RuntimeError(
                f'{self._max_pending} batches and no optimizer step was reported: add '
                "dict(type='NeighborQueueHook') to custom_hooks"
            )
        if self.queue.sync:
            keys = all_keys
            ids, labels = gather_rows(torch.stack([ids, labels], dim=1)).unbind(dim=1)
        self._pending.append((keys, ids, labels))

    def after_optimizer_step(self, progress: float) -> None:
        """Move the momentum encoder and enqueue the keys of the step.

        ``progress`` is the share of the training that is done, from 0 to 1.
        """
        self.update_momentum_encoder(progress)
        for batch in self._pending:
            self.queue.enqueue(*batch)
        self._pending.clear()

    def forget_step(self) -> None:
        """Drop the keys of a step that the optimiser did not take."""
        self._pending.clear()

    def update_momentum_encoder(self, progress: float = 0.0) -> None:
        """Move the momentum encoder towards the online one, ``progress`` as above."""
        start, end = self.momentum_coefficient, self.end_momentum_coefficient
        coefficient = start
        if end is not None:
            coefficient = end - (end - start) * (math.cos(math.pi * progress) + 1) / 2
        encoders = (self.momentum_encoder, self.online_encoder)
        get_ema_multi_avg_fn(coefficient)(*(list(e.parameters()) for e in encoders), None)


def method_of(cfg: Config) -> type[NeighborMethod] | None:
    """Class of the method that a config trains; ``None`` if it is not one on a candidate set."""
    found = MODELS.get(cfg.model.get('type', 'backbone'))
    return found if issubclass(found or object, NeighborMethod) else None
