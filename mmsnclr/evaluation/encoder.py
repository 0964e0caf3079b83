"""A network that represents images, of a checkpoint of any origin."""

from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn

from ..backbones import Trained, build_backbone
from ..backbones.naming import example_images
from ..console import say
from ..datasets.views import view_levels
from ..models import NeighborMethod, pooled
from ..parents import quiet
from ..random_state import seeded

_IMAGENET: dict[str, Any] = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)


class Sight(NamedTuple):
    """How a network is to see images.

    Attributes:
        edge: Of the image, in pixels.
        levels: Values of black and white of images with more than 8 bits.
        mean: That is subtracted from each channel of 0 to 255.
        std: By which the rest is divided.
        to_rgb: Whether the channels are red, green, blue.
    """

    edge: int
    levels: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    to_rgb: bool


class Encoder(NamedTuple):
    """A network that represents images.

    Attributes:
        name: The checkpoint, as the user names it.
        cfg: Config of the backbone.
        sight: How it is to see images.
        networks: By what they give: ``'features'``, the backbone; where there is a method,
            ``'keys'``, its momentum branch, and ``'projections'``, its online branch.
        config: That of the training, as far as it is known.
        method: The whole model, where the checkpoint holds a method with neighbours.
    """

    name: str
    cfg: dict
    sight: Sight
    networks: dict[str, nn.Module]
    config: Config | None = None
    method: NeighborMethod | None = None

    @classmethod
    def of(
        cls, name: str, trained: Trained, config: Config | None, method: NeighborMethod | None
    ) -> 'Encoder':
        """Make one of a checkpoint's parts.

        Args:
            name: The checkpoint.
            trained: Its backbone.
            config: That of its training, if it is known.
            method: The whole model, if it holds one.

        Raises:
            ValueError: If the backbone does not give a vector or a map for an image.
        """
        if not trained.preprocessing:
            say(f"{name} does not say how images are normalised: as ImageNet's are", err=True)
        norm = _IMAGENET | trained.preprocessing
        image = example_images(trained.backbone, trained.cfg, 1, trained.edge)
        _try(name, trained.backbone, image)
        levels = None if config is None else view_levels(config)
        sight = Sight(
            image.shape[-1],
            (levels[0], levels[1]) if levels else None,
            tuple(norm['mean']),
            tuple(norm['std']),
            norm['to_rgb'],
        )
        networks = dict(features=trained.backbone)
        if method is not None:
            networks |= dict(keys=method.momentum_encoder, projections=method.online_encoder)
        return cls(name, trained.cfg, sight, networks, config, method)

    @classmethod
    def random(cls, like: 'Encoder | None', seed: int) -> 'Encoder':
        """One with random weights, of the architecture of another or a ResNet-50.

        A ResNet's residual branches count: set to zero, as where training begins, they would make
        its features worse than those of random weights.
        """
        cfg, sight = dict(type='ResNet', depth=50), Sight(224, None, *_IMAGENET.values())
        if like is not None:
            cfg, sight = like.cfg, like.sight
        if cfg['type'] == 'ResNet':
            cfg = cfg | dict(zero_init_residual=False)
        say(f'random: {cfg.get("model_name", cfg["type"])} of random weights (seed {seed})')
        with seeded(seed), quiet():
            backbone: Any = build_backbone(cfg)
            backbone.init_weights()
        return cls('random', cfg, sight, dict(features=backbone))


@torch.no_grad()
def _try(name: str, backbone: nn.Module, image: torch.Tensor) -> None:
    """Refuse a backbone that wants more than images, or gives something else than features."""
    try:
        found = pooled(backbone(image))
    except TypeError as error:
        raise ValueError(f'{name} has a backbone that represents no images: {error}') from error
    if found.ndim != 2 or not found.is_floating_point():
        raise ValueError(
            f'{name} has a {type(backbone).__name__}, which gives values {tuple(found.shape)} of '
            f'{found.dtype} for an image: pass a backbone that gives one vector, or a map'
        )
