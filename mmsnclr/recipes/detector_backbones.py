"""The kinds of backbones that detectors are built on, in one table."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmpretrain.models.backbones import ResNet, TIMMBackbone, VisionTransformer
from mmpretrain.models.selfsup import MoCoV3ViT
from timm.models import VisionTransformer as TIMMVisionTransformer
from torch import nn

from ..backbones import Trained, read_backbone
from ..backbones.naming import (
    build_backbone,
    mmdet_resnet,
    plain_vit,
    timm_features,
    unwrapped,
)
from ..checkpoints import Stored, save_whole
from ..models.feature_maps import TIMMFeatures, fitting_neck, probe
from ..parents import quiet


class Kind(NamedTuple):
    """A kind of backbones.

    Attributes:
        name: What it is called.
        has: Whether a network, of a config, is of it.
        build: The config of a detector's backbone, from that of a pretrained one.
        prefix: Of its weights in a checkpoint, by which they are filled.
        layer_decay: The rate of a layer over that of the next one.
    """

    name: str
    has: Callable[[nn.Module, dict], bool]
    build: Callable[[dict, nn.Module], dict]
    prefix: str = 'backbone.'
    layer_decay: float | None = None


class Backbone(NamedTuple):
    """A backbone that a detector can start from.

    Attributes:
        config: Its config in mmdet's words.
        preprocessing: ``mean``, ``std`` and ``to_rgb``; may be empty.
        init_cfg: How it is filled; ``None`` leaves it random.
        optim_wrapper: What trains it.
        neck: Config of the neck that its maps suit.
        strides: Of the neck's levels, in pixels.
        divisor: What the edges of images are padded to multiples of, in pixels.
    """

    config: dict
    preprocessing: dict
    init_cfg: dict | None
    optim_wrapper: dict
    neck: dict
    strides: list[float]
    divisor: int


class Start(NamedTuple):
    """What a run starts from.

    Attributes:
        source: As the user named it.
        backbone: The backbone.
        files: What is read to fill it.
        copied: Whether these are copies of the user's, which are to be written.
    """

    source: str
    backbone: Backbone
    files: tuple[Stored, ...] = ()
    copied: bool = False

    def as_begun(self, configs: Iterable[Path]) -> 'Start':
        """The same, but by the optimiser of runs that are there already.

        Args:
            configs: Where those of such runs would be; they may be of a first version.

        Raises:
            ValueError: If they have copies of other weights.
        """
        config = next((config for config in configs if config.exists()), None)
        if config is None:
            return self
        for stored in self.files if self.copied else ():
            if stored.path.exists() and not _are_equal(Stored.read(stored.path), stored):
                raise ValueError(
                    f'{self.source} holds other weights than {stored.path}, from which the run '
                    'was started: pass with --resume what it was started with, or choose another '
                    '--out'
                )
        if Config.fromfile(config).optim_wrapper.optimizer.type != 'SGD':
            return self
        return self._replace(backbone=self.backbone._replace(optim_wrapper=_SGD))

    def write(self) -> None:
        """Write the copies, each whole or not at all, also over those of another start."""
        for stored in self.files if self.copied else ():
            stored.path.parent.mkdir(parents=True, exist_ok=True)
            save_whole(stored.content, stored.path)


def _are_equal(one: Stored, two: Stored) -> bool:
    return one.weights.keys() == two.weights.keys() and all(
        value.equal(two.weights[name]) for name, value in one.weights.items()
    )


def _depth(cfg: dict) -> int:
    """The depth of a ResNet of timm whose weights are named as mmdet's; 0 of others."""
    match = re.fullmatch(r'resnet(18|34|50|101|152)', cfg.get('model_name', ''))
    return int(match[1]) if match else 0


def _adamw(lr: float, layer_decay: float | None) -> dict:
    """AdamW, its rate for 16 images in a step; norms without decay, as mmdet's Swin and ViTDet."""
    paramwise: dict = dict(norm_decay_mult=0.0)
    wrapper = dict(optimizer=dict(type='AdamW', lr=lr, weight_decay=0.05), paramwise_cfg=paramwise)
    if layer_decay is None:
        return wrapper
    paramwise.update(layer_decay_rate=layer_decay)
    return wrapper | dict(constructor='BackboneLayerDecay')


# For 16 images in a step: of a ResNet whose neck has one channel, and of others.
_RESNET_RATE, _RATE = 0.128, 1e-4
# What the first versions trained ResNets by.
_SGD = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4))

# The first that fits. FPN is the neck of several maps, a simple feature pyramid that of one.
KINDS = (
    Kind('ResNet', lambda network, cfg: type(network) is ResNet, lambda cfg, _: mmdet_resnet(cfg)),
    Kind(
        "timm's ResNet",
        lambda network, cfg: _depth(cfg) > 0,
        lambda cfg, _: mmdet_resnet(dict(type='ResNet', depth=_depth(cfg))),
        'backbone.timm_model.',
    ),
    Kind(
        'ViT',
        lambda network, cfg: type(network) in (VisionTransformer, MoCoV3ViT),
        lambda cfg, network: plain_vit(cfg, network) | dict(type='ViTFeatures'),
        layer_decay=0.7,
    ),
    Kind(
        "timm's ViT",
        lambda network, cfg: isinstance(unwrapped(network), TIMMVisionTransformer),
        lambda cfg, _: timm_features(cfg),
        layer_decay=0.7,
    ),
    Kind(
        "timm's",
        lambda network, cfg: isinstance(network, TIMMBackbone),
        lambda cfg, _: timm_features(cfg),
    ),
)


def detector_backbone(
    trained: Trained, checkpoint: str | Path, weights: Path | None = None
) -> Backbone:
    """The backbone of a checkpoint as one for a detector.

    Args:
        trained: The backbone that the checkpoint has.
        checkpoint: The checkpoint.
        weights: File that has its weights as mmengine looks for them; by default the checkpoint.

    Returns:
        The backbone, filled from that file.

    Raises:
        ValueError: If it has no feature maps of images of any size.
    """
    cfg, name = trained.cfg, trained.cfg.get('model_name', trained.cfg['type'])
    given = f'backbone {name} of {checkpoint}'
    kinds = [kind for kind in KINDS if kind.has(trained.backbone, cfg)]
    if not kinds:
        known = ', '.join(kind.name for kind in KINDS)
        raise ValueError(f'{given} is of no kind that detectors are built on: {known}')
    path = str(weights or Path(checkpoint).resolve())
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix=kinds[0].prefix)
    try:
        config = kinds[0].build(cfg, trained.backbone)
        return _backbone(config, trained.preprocessing, init_cfg, kinds[0].layer_decay)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f'{given} is not for detectors: {error}') from error


def random_backbone() -> Backbone:
    """A ResNet-50 with random weights."""
    return _backbone(mmdet_resnet(dict(type='ResNet', depth=50)), {}, None)


@quiet()
def _backbone(
    config: dict, preprocessing: dict, init_cfg: dict | None, layer_decay: float | None = None
) -> Backbone:
    """What else follows from a backbone's config."""
    network = build_backbone(config, 'mmdet')
    divisor = getattr(network, 'divisor', 32)
    channels, strides, _ = probe(network, divisor)
    resnet = 'base_channels' in config
    width = min(256, max(64, 4 * config['base_channels'] if resnet else channels[-1]))
    neck, strides = fitting_neck(channels, strides, width, norm=isinstance(network, TIMMFeatures))
    optim_wrapper = _adamw(_RESNET_RATE / width if resnet else _RATE, layer_decay)
    return Backbone(config, preprocessing, init_cfg, optim_wrapper, neck, strides, divisor)


def read_starts(names: Mapping[str, str], folder: Path) -> dict[str, Start]:
    """Read what each run starts from.

    Args:
        names: A checkpoint or ``'random'`` by the name of each run.
        folder: For copies of weights that are named otherwise than mmengine looks for them.

    Returns:
        The starts by the run's name.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If a checkpoint has no backbone for detectors.
    """
    read = {
        name: _read_start(source, folder / f'{name}.pth')
        for name, source in names.items()
        if source != 'random'
    }
    like = next((start.backbone for start in read.values()), None)
    return {name: read.get(name) or _random_start(like) for name in names}


def _random_start(like: Backbone | None) -> Start:
    if like is None:
        return Start('random weights', random_backbone())
    # Without layer-wise decay: where nothing is pretrained, all layers have to learn.
    wrapper = _adamw(like.optim_wrapper['optimizer']['lr'], None)
    return Start('random weights', like._replace(init_cfg=None, optim_wrapper=wrapper))


def _read_start(checkpoint: str | Path, copy_to: Path) -> Start:
    stored = Stored.read(Path(checkpoint).resolve())
    trained, path, copied = read_backbone(stored), stored.path, False
    # The rest, such as the optimiser's state, would fill the memory throughout the training.
    weights = {k: value for k, value in stored.weights.items() if k.startswith('backbone.')}
    if not all(f'backbone.{key}' in weights for key, _ in trained.backbone.named_parameters()):
        weights = {f'backbone.{k}': value for k, value in trained.backbone.state_dict().items()}
        path, copied = copy_to, True
    backbone = detector_backbone(trained, checkpoint, path)
    return Start(str(checkpoint), backbone, (Stored(path, dict(state_dict=weights)),), copied)
