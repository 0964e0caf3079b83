"""The backbone of a checkpoint, whoever wrote it."""

import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import timm
from mmengine.config import Config
from mmpretrain.models.backbones import TIMMBackbone, VisionTransformer
from torch import Tensor, nn

from ..checkpoints import Stored
from ..console import did_you_mean
from ..datasets.views import view_size
from .naming import (
    build_backbone,
    classifiers,
    example_images,
    rename,
    timm_facts,
    unwrapped,
)
from .origins import OPENMMLAB, architecture, take_apart

# MoCoV3ViT adds its own architecture to these only when it is built.
_ARCHITECTURES = {'mocov3-small': dict(num_heads=12)} | VisionTransformer.arch_zoo
# Settings of a backbone's own training.
_TRAINING = ('_scope_', 'init_cfg', 'pretrained', 'checkpoint_path', 'frozen_stages', 'norm_eval')
_IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)


class Trained(NamedTuple):
    """The backbone of a checkpoint.

    Attributes:
        cfg: Its config in mmpretrain's words, without what concerns only its training.
        backbone: The backbone itself, in evaluation mode.
        preprocessing: ``mean``, ``std`` and ``to_rgb`` of its training. Where there
            is no config: timm's for a named model, else ImageNet's. Empty if the
            config does not say them.
        edge: Of the images that it was trained with, in pixels.
    """

    cfg: dict
    backbone: nn.Module
    preprocessing: dict
    edge: int


class Recognised(NamedTuple):
    """The backbone of a checkpoint, and what it was seen to be.

    Attributes:
        trained: The backbone.
        what: Origin and architecture, in words.
        naming: In whose naming its weights are, of :data:`~.naming.NAMINGS`.
        weights: All of its weights, as they are called in the file.
    """

    trained: Trained
    what: str
    naming: str
    weights: dict[str, Tensor]


def read_backbone(stored: Stored) -> Trained:
    """The backbone of a checkpoint.

    Args:
        stored: Checkpoint of a training of this toolkit or of OpenMMLab, with
            its config or without, or of another origin that :mod:`.origins`
            knows. A ResNet without config strides as torchvision's, in the
            second convolution of a block, which weights do not tell.

    Raises:
        ValueError: If there is none that can be told, or config and weights do
            not fit.
    """
    return recognise(stored).trained


def recognise(
    stored: Stored, heads: int | None = None, timm_model: str | None = None
) -> Recognised:
    """The backbone of a checkpoint, by its config or else by names and shapes of its weights.

    Args:
        stored: The checkpoint.
        heads: Number of a ViT's attention heads, where there is no config.
        timm_model: Name of the timm model that the weights are of, which they do not tell.

    Raises:
        ValueError: If there is none that can be told, or it does not fit.
    """
    origin, weights = take_apart(stored)
    stated = None if timm_model else _stated_backbone(stored)
    if timm_model is not None:
        cfg, naming = dict(type='TIMMRepresentation', model_name=timm_model), 'timm'
        what = f'{timm_model} of timm'
    elif stated:
        cfg, naming = stated, 'mmpretrain'
        what = f'{cfg["type"]} by its own config'
        weights = OPENMMLAB.backbone(stored.weights)
    else:
        heads = heads or stated_heads(stored)
        cfg, naming, what = architecture(origin, weights, heads, stored.path)
    try:
        backbone = build_backbone(cfg)
    # Of names that nobody knows, settings that a class does not have, and models without features.
    except (AssertionError, KeyError, RuntimeError, TypeError) as error:
        setting = f'timm_model={timm_model!r}' if timm_model else f'{stored.path} ({what})'
        hint = ''
        if timm_model and not timm.is_model(timm_model):
            hint = did_you_mean(timm_model, timm.list_models())
        raise ValueError(f'{setting}: {error}{hint}') from error
    if isinstance(backbone, TIMMBackbone):
        naming = 'timm'
        weights = {key.removeprefix('timm_model.'): value for key, value in weights.items()}
    weights = _fill(backbone, weights, naming, f'{stored.path} ({what})')
    full = (stored.config if stated else None) or {}
    preprocessing = _stated_preprocessing(full) if full else _usual_preprocessing(backbone)
    sized = 'train_dataloader' in full
    edge = view_size(full) if sized else example_images(backbone, cfg, 1).shape[-1]
    return Recognised(Trained(cfg, backbone, preprocessing, edge), what, naming, weights)


def _stated_backbone(stored: Stored) -> dict | None:
    """The backbone's config that a checkpoint of OpenMMLab's libraries has, if it does."""
    full = stored.config or {}
    cfg = (full.get('model') or {}).get('backbone')
    if not cfg or not OPENMMLAB.backbone(stored.weights):
        return None
    cfg = {key: value for key, value in cfg.to_dict().items() if key not in _TRAINING}
    scope, _, kind = cfg['type'].rpartition('.')
    library = scope or full.get('default_scope')
    if library not in (None, 'mmpretrain', 'mmsnclr'):
        # The ResNets of all compute the same; mmpretrain was mmcls and mmselfsup before.
        alike = kind == 'ResNet' or library in ('mmcls', 'mmselfsup')
        cfg['type'] = kind if alike else f'{library}.{kind}'
    if kind == 'MAEViT':  # a ViT whose forward pass leaves patches out
        cfg = {key: v for key, v in cfg.items() if key != 'mask_ratio'}
        cfg['type'] = 'VisionTransformer'
    return cfg


def filtered_by_timm(weights: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Weights of a model of timm as it names them, from any format that timm has a filter for.

    Those that fit, and those of other backbones, are left as they are. So is
    what the filter would resize: what is computed from it is not the same.
    """
    model = unwrapped(backbone)
    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    fits = not any(_misfits(model.state_dict(), weights, classifiers(model)))
    if model is backbone or convert is None or fits:
        return dict(weights)
    try:
        converted = convert(dict(weights), model)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return dict(weights)  # of another network
    return {
        key: weights[key] if key in weights and _size(weights[key]) != _size(value) else value
        for key, value in converted.items()
    }


def _size(value: Tensor) -> int:
    """Number of values, or for tokens the edge of their grid, some others among them or not."""
    return math.isqrt(value.shape[1]) if value.ndim == 3 else value.numel()


def _fill(
    backbone: nn.Module, weights: Mapping[str, Tensor], naming: str, source: str
) -> dict[str, Tensor]:
    """Fill a backbone in full; its weights by the names of the other library."""
    names = {rename(key, backbone, naming): key for key in backbone.state_dict()}
    wanted = {name: backbone.state_dict()[key] for name, key in names.items()}
    weights = filtered_by_timm(weights, backbone)
    missing, unexpected, shapes = _misfits(wanted, weights, classifiers(backbone))
    if missing or unexpected or shapes:
        raise ValueError(
            f'{source}: its weights are of another network: {len(missing)} are missing '
            f'{missing[:3]}, {len(unexpected)} too many {unexpected[:3]}, {len(shapes)} of other '
            f'shape {shapes[:3]}; for another model of timm pass its name to `mmsnclr import` '
            '(--timm-model)'
        )
    weights = {name: weights.get(name, value) for name, value in wanted.items()}
    check_finite(weights, source)
    backbone.load_state_dict({names[name]: value for name, value in weights.items()})
    return weights


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights of a training that has diverged.

    Args:
        weights: By their names.
        source: Where they are from, named in the error.

    Raises:
        ValueError: If some are not finite.
    """
    bad = [name for name, value in weights.items() if not value.isfinite().all()]
    if bad:
        raise ValueError(
            f'{source}: {len(bad)} of its {len(weights)} weights are not finite (nan, inf), the '
            f'first {bad[0]}: its training diverged, so pass an earlier checkpoint'
        )


def _misfits(
    wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], heads: tuple[str, ...]
) -> tuple[list[str], list[str], list[str]]:
    """Names that weights lack or have too many, and those of other shapes, with these.

    A classifier's may be too many. Counters, which are integers, may be
    missing: old checkpoints and frozen BN have none.
    """
    missing = [key for key, v in wanted.items() if key not in weights and v.is_floating_point()]
    unexpected = [key for key in weights if key not in wanted and not key.startswith(heads)]
    shapes = [
        f'{key} {tuple(value.shape)} where {tuple(wanted[key].shape)} is meant'
        for key, value in weights.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    return missing, unexpected, shapes


def _stated_preprocessing(config: Config) -> dict:
    """How a training normalised images, as far as its config says."""
    settings = config.model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    preprocessing = {key: settings[key] for key in ('mean', 'std') if key in settings}
    if preprocessing:
        preprocessing['to_rgb'] = settings.get('to_rgb', settings.get('bgr_to_rgb', False))
    return preprocessing


def _usual_preprocessing(backbone: nn.Module) -> dict:
    """How images are to be normalised: as timm says, else by ImageNet's statistics."""
    stated = timm_facts(backbone)
    if 'mean' not in stated or 'std' not in stated:
        return _IMAGENET
    return dict(
        mean=[255 * value for value in stated['mean']],
        std=[255 * value for value in stated['std']],
        to_rgb=True,
    )


def stated_heads(stored: Stored) -> int | None:
    """The number of a ViT's attention heads, which no weight's shape tells.

    As the checkpoint's config or, of an exported file, a note says; ``None`` if neither does.
    """
    if str(stored.meta.get('num_heads', '')).isdecimal():
        return int(stored.meta['num_heads'])
    config = None
    with suppress(ValueError):  # of another library, and more than plain values
        config = stored.config
    model = (config or {}).get('model') or {}
    arch = (model.get('backbone') or {}).get('arch')
    settings = arch if isinstance(arch, dict) else _ARCHITECTURES.get(arch, {})
    return settings.get('num_heads')
