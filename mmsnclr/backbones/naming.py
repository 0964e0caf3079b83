"""The same backbone in several libraries: how each calls it, and whether it computes the same."""

import copy
import re
from typing import Any, NamedTuple

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.utils import get_object_from_string
from mmpretrain.models.backbones import ResNet, TIMMBackbone, VisionTransformer
from mmpretrain.models.selfsup import MoCoV3ViT
from torch import Tensor, nn

from ..models.backbone import pooled
from ..models.feature_maps import TIMMFeatures
from ..requirements import check_detection_requirements

NAMINGS = ('mmpretrain', 'mmdet', 'torchvision', 'timm')
TOLERANCE = 1e-5  # relative to the largest value of the representation

# Arguments that mean the same to mmpretrain's and mmdet's ResNet, and mmpretrain's defaults.
_RESNET_ARGS = dict(
    depth=50,
    in_channels=3,
    stem_channels=64,
    base_channels=64,
    style='pytorch',
    deep_stem=False,
    avg_down=False,
)
# Arguments that do not change what a ResNet computes from given weights.
_RESNET_TRAINING = ('frozen_stages', 'norm_eval', 'norm_cfg', 'with_cp', 'zero_init_residual')

# A ViT's keys, rewritten in this order; a ResNet's are the same everywhere.
_VIT_KEYS = (
    # mmpretrain and mmdet, timm, torchvision
    (r'^cls_token$', 'cls_token', 'class_token'),
    (r'^pos_embed$', 'pos_embed', 'encoder.pos_embedding'),
    (r'^patch_embed\.projection\.', 'patch_embed.proj.', 'conv_proj.'),
    (r'^ln1\.', 'norm.', 'encoder.ln.'),
    (r'^layers\.(\d+)\.', r'blocks.\1.', r'encoder.layers.encoder_layer_\1.'),
    (r'\.ln([12])\.', r'.norm\1.', r'.ln_\1.'),
    (r'\.attn\.qkv\.', '.attn.qkv.', '.self_attention.in_proj_'),
    (r'\.attn\.proj\.', '.attn.proj.', '.self_attention.out_proj.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.', '.mlp.0.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.', '.mlp.3.'),
)
# timm's models by width; only what differs from them is told to the user.
_TIMM_VITS = {
    192: ('vit_tiny_patch16_224', dict(embed_dim=192, depth=12, num_heads=3)),
    384: ('vit_small_patch16_224', dict(embed_dim=384, depth=12, num_heads=6)),
    768: ('vit_base_patch16_224', dict(embed_dim=768, depth=12, num_heads=12)),
}


class Call(NamedTuple):
    """A call that can be made here, and printed for the user to make."""

    function: str
    args: tuple
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        given = [repr(arg) for arg in self.args]
        given += [f'{name}={value!r}' for name, value in self.kwargs.items()]
        return f'{self.function}({", ".join(given)})'

    def make(self) -> Any:
        """Make it."""
        return get_object_from_string(self.function)(*self.args, **self.kwargs)


def build_backbone(cfg: dict, library: str = 'mmpretrain') -> nn.Module:
    """A backbone in evaluation mode, SyncBN replaced by BN.

    Args:
        cfg: Its config, in mmpretrain's or mmdet's words.
        library: ``'mmpretrain'`` or ``'mmdet'``.

    Raises:
        ImportError: If mmdet is asked for and missing.
    """
    if library == 'mmdet':
        check_detection_requirements()
    models = get_object_from_string(f'{library}.registry.MODELS')
    with DefaultScope.overwrite_default_scope(library):
        backbone = revert_sync_batchnorm(models.build(cfg))
    backbone.eval()  # returns nothing in mmpretrain
    return backbone


def mmdet_resnet(cfg: dict) -> dict:
    """A ResNet of mmpretrain as mmdet's config of the same network.

    Args:
        cfg: mmpretrain's config of it.

    Raises:
        ValueError: If a setting changes the network and mmdet's ResNet has no
            such one.
    """
    plain = (('num_stages', 4), ('strides', (1, 2, 2, 2)), ('dilations', (1, 1, 1, 1)))
    for key, value in cfg.items():
        known = key in ('type', 'out_indices', *_RESNET_ARGS, *_RESNET_TRAINING)
        if not known and (key, tuple(value) if isinstance(value, list) else value) not in plain:
            raise ValueError(
                f"backbone {key}={value!r} is a setting that mmdet's ResNet is not given; "
                'use a backbone without it'
            )
    return dict(type='ResNet') | {key: cfg.get(key, value) for key, value in _RESNET_ARGS.items()}


def plain_vit(cfg: dict, network: VisionTransformer) -> dict:
    """A ViT of mmpretrain, MoCo v3's or another, as the config of one that gives a feature map.

    Args:
        cfg: mmpretrain's config of it.
        network: The ViT.
    """
    training = ('stop_grad_conv1', 'frozen_stages', 'norm_eval', 'out_indices')
    sizes = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')
    arch = {key: network.arch_settings[key] for key in sizes}
    plain = {key: value for key, value in cfg.items() if key not in training}
    return plain | dict(type='VisionTransformer', arch=arch, out_type='featmap')


def timm_features(cfg: dict) -> dict:
    """A timm model of ``TIMMRepresentation``'s config as the config of one that gives its maps."""
    return {key: v for key, v in cfg.items() if key != 'frozen'} | dict(type='TIMMFeatures')


def with_maps(source: nn.Module, cfg: dict) -> nn.Module:
    """A backbone that gives its feature maps, of the same weights.

    Args:
        source: The backbone.
        cfg: Its config.

    Raises:
        ValueError: If timm has no feature maps of it.
    """
    maps: Any
    if isinstance(source, TIMMBackbone):
        maps = build_backbone(timm_features(cfg))
        maps.load_state_dict(source.state_dict(), strict=False)
        return maps
    maps = copy.copy(source)
    if type(source) is ResNet:
        maps.out_indices = (0, 1, 2, 3)
    elif type(source) in (VisionTransformer, MoCoV3ViT):
        maps.out_type, maps.out_indices = 'featmap', [maps.num_layers - 1]
    return maps


def equivalent(source: nn.Module, cfg: dict, to: str) -> Call:
    """The call that builds the backbone's architecture in another library.

    Args:
        source: The backbone.
        cfg: Its config.
        to: One of :data:`NAMINGS`. For mmpretrain and mmdet the call is a
            config.

    Raises:
        ValueError: If the library has no such architecture.
    """
    if isinstance(source, TIMMFeatures) and to == 'mmdet':
        maps = dict(features_only=True, feature_cls='getter', out_indices=source.stages)
        wrapper = dict(type='mmpretrain.TIMMBackbone', **maps, **source.sizes)
        return Call('dict', (), timm_features(cfg) | wrapper)
    if isinstance(source, TIMMBackbone):
        if to != 'timm':
            raise ValueError(f"to={to!r}: {cfg['model_name']} is a model of timm; pass to='timm'")
        wrapper_only = ('type', 'model_name', 'in_channels', 'norm_layer', 'frozen')
        kwargs = {key: value for key, value in cfg.items() if key not in wrapper_only}
        return _timm(cfg['model_name'], cfg, kwargs)
    if to == 'mmpretrain':
        return Call('dict', (), cfg)
    if to == 'mmdet':
        if type(source) is ResNet:
            return Call('dict', (), mmdet_resnet(cfg))
        if type(source) in (VisionTransformer, MoCoV3ViT):
            cfg = plain_vit(cfg, source)
        kind = cfg['type'].removeprefix('mmpretrain.')
        return Call('dict', (), cfg | dict(type=f'mmpretrain.{kind}'))
    if type(source) is ResNet:
        name = f'resnet{source.depth}'
        if (source.stem_channels, source.base_channels) == (64, 64):
            return _timm(name, cfg, {}) if to == 'timm' else _torchvision(name, {})
        raise ValueError(
            f'to={to!r}: its ResNet is 64 wide, not stem_channels={source.stem_channels} and '
            f"base_channels={source.base_channels}; pass to='mmpretrain'"
        )
    if type(source) in (VisionTransformer, MoCoV3ViT):
        return _vit(source, cfg, to)
    raise ValueError(
        f'to={to!r} is for ResNet and VisionTransformer, not {type(source).__name__}; '
        "pass to='mmpretrain'"
    )


def _timm(name: str, cfg: dict, kwargs: dict) -> Call:
    if 'in_channels' in cfg:
        kwargs['in_chans'] = cfg['in_channels']
    return Call('timm.create_model', (name,), kwargs)


def _torchvision(name: str, kwargs: dict) -> Call:
    return Call(f'torchvision.models.{name}', (), kwargs)


def _vit(source: VisionTransformer, cfg: dict, to: str) -> Call:
    size, patch = source.img_size, source.patch_embed.projection.kernel_size
    if size[0] != size[1] or patch[0] != patch[1] or source.out_type != 'cls_token':
        raise ValueError(
            f"to={to!r} needs square images and patches and out_type='cls_token', not img_size="
            f"{size}, patch_size={patch} and out_type={source.out_type!r}; pass to='mmpretrain'"
        )
    arch = source.arch_settings
    width, hidden = arch['embed_dims'], arch['feedforward_channels']
    depth, heads = arch['num_layers'], arch['num_heads']
    if to == 'torchvision':
        kwargs = dict(image_size=size[0], patch_size=patch[0], num_layers=depth, num_heads=heads)
        kwargs |= dict(hidden_dim=width, mlp_dim=hidden)
        return _torchvision('VisionTransformer', kwargs)
    name, stock = _TIMM_VITS.get(width, _TIMM_VITS[768])
    stock = stock | dict(img_size=224, patch_size=16, mlp_ratio=4)
    kwargs = dict(embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=hidden / width)
    kwargs |= dict(img_size=size[0], patch_size=patch[0])
    return _timm(name, cfg, {key: kwargs[key] for key in kwargs if kwargs[key] != stock[key]})


def rename(key: str, source: nn.Module, to: str) -> str:
    """A key of the backbone's weights as another library, of :data:`NAMINGS`, calls it."""
    if isinstance(source, VisionTransformer):
        key = rename_vit(key, to)
    if to == 'mmdet':  # with timm's wrapper inside mmpretrain's
        return key.replace('timm_model.', 'timm_model.model.', 1)
    return key.removeprefix('timm_model.')


def rename_vit(key: str, to: str) -> str:
    """A key of a ViT of mmpretrain as another library, of :data:`NAMINGS`, calls it."""
    if to in ('timm', 'torchvision'):
        for pattern, timm, torchvision in _VIT_KEYS:
            key = re.sub(pattern, timm if to == 'timm' else torchvision, key)
    return key


def unwrapped(backbone: nn.Module) -> nn.Module:
    """The model of timm in mmpretrain's wrapper of it; other backbones as they are."""
    return getattr(backbone, 'timm_model', backbone)


def timm_facts(model: nn.Module) -> dict:
    """What timm says of its own model, wrapped or not; empty for others."""
    return getattr(unwrapped(model), 'pretrained_cfg', None) or {}


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """How the names of a classifier's weights begin, which no backbone has."""
    names = timm_facts(model).get('classifier') or ('fc', 'head', 'heads')
    return tuple(f'{name}.' for name in ([names] if isinstance(names, str) else names))


@torch.no_grad()
def verify(source: nn.Module, cfg: dict, weights: dict[str, Tensor], call: Call, to: str) -> None:
    """Compare the backbone's output with that of another library's model.

    Args:
        source: The backbone.
        cfg: Its config.
        weights: Its weights in the other library's naming.
        call: What :func:`equivalent` gave.
        to: One of :data:`NAMINGS`.

    Raises:
        ValueError: If the model lacks weights, has others, or represents two
            random images differently.
    """
    target: Any
    try:
        config_made = to in ('mmpretrain', 'mmdet')
        target = build_backbone(call.kwargs, to) if config_made else call.make()
        missing, unexpected = target.load_state_dict(weights, strict=False)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f'to={to!r}: {call} cannot take the backbone: {error}') from error
    missing = [key for key in missing if not key.startswith(classifiers(target))]
    if missing or unexpected:
        raise ValueError(
            f'to={to!r}: {call} has other weights than the backbone: {missing[:3]} are missing '
            f'from the backbone and {unexpected[:3]} are not in the model'
        )
    backbone = source if to == 'mmdet' else unwrapped(source)
    if to == 'torchvision':
        setattr(target, 'fc' if type(source) is ResNet else 'heads', nn.Identity())
    elif hasattr(target, 'reset_classifier'):  # the wrapper of timm's models removes the pooling
        target.reset_classifier(0, *([] if backbone is source else ['']))
    target.eval()
    images = example_images(source, cfg)
    expected, actual = backbone(images), target(images)
    expected, actual = ([x] if isinstance(x, Tensor) else x for x in (expected, actual))
    if to != 'mmdet':  # where all maps count
        expected, actual = expected[-1:], actual[-1:]
    if actual[0].ndim == 2:
        expected = [pooled(tuple(expected))]
    pairs = zip(expected, actual, strict=True)
    difference = max(relative_difference(*pair) for pair in pairs)
    if not difference <= TOLERANCE:  # nan is no match either
        raise ValueError(
            f'to={to!r}: {call} represents images differently, by {difference:.1e} relative, so '
            f'nothing was written; it lacks a setting of the backbone, {Call("dict", (), cfg)}'
        )


def relative_difference(expected: Tensor, actual: Tensor) -> float:
    """Largest difference over the largest expected value; infinite if shapes differ."""
    if actual.shape != expected.shape:
        return float('inf')
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def example_images(source: nn.Module, cfg: dict, count: int = 2, edge: int | None = None) -> Tensor:
    """Random images ``(count, C, H, W)`` of the one size that the backbone takes, or of an edge."""
    timm_cfg = timm_facts(source)
    sizes = [getattr(module, 'img_size', None) for module in source.modules()]
    if timm_cfg.get('fixed_input_size'):
        sizes.append(timm_cfg['input_size'][1:])
    usual = timm_cfg.get('input_size', (3, 224, 224))[1:]
    size = next(filter(None, sizes), (edge, edge) if edge else usual)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, cfg.get('in_channels', 3), *size, generator=generator)
