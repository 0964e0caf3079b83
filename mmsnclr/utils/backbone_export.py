"""A pretrained backbone in another library's naming, checked before it is written."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.utils import get_object_from_string
from mmpretrain.models.backbones import ResNet, TIMMBackbone, VisionTransformer
from mmpretrain.models.selfsup import MoCoV3ViT
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..engine.checkpoint import load_checkpoint, stored_config

NAMINGS = ('mmpretrain', 'torchvision', 'timm')

# A ViT's keys, rewritten in this order; a ResNet's are the same in all three.
_VIT_KEYS = (
    # mmpretrain, timm, torchvision
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
_TOLERANCE = 1e-5


class _Call(NamedTuple):
    """A call that can be made here, and printed for the user to make."""

    function: str
    args: tuple
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        given = [repr(arg) for arg in self.args]
        given += [f'{name}={value!r}' for name, value in self.kwargs.items()]
        return f'{self.function}({", ".join(given)})'

    def make(self) -> Any:
        return get_object_from_string(self.function)(*self.args, **self.kwargs)


def export_backbone(checkpoint_path: str | Path, out_path: str | Path, to: str) -> str:
    """Write a training checkpoint's online backbone for another library.

    Nothing is written unless the library's own model, loaded with the
    converted weights, represents a random batch as the backbone does.

    Args:
        checkpoint_path: Checkpoint of a training, as mmengine saves it.
        out_path: File to write. For mmpretrain, whose naming is mmdet's too,
            ``{'state_dict': ..., 'meta': ...}``; else a flat state dict.
        to: ``'mmpretrain'``, ``'torchvision'`` or ``'timm'``.

    Returns:
        One line that says what was written and how to load it.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If an argument is not usable, the library has no such
            architecture, or its representation differs.
    """
    if to not in NAMINGS:
        raise ValueError(f'to={to!r} must be one of {", ".join(NAMINGS)}')
    if Path(out_path).resolve() == Path(checkpoint_path).resolve():
        raise ValueError(f'out_path={str(out_path)!r} would overwrite the training checkpoint')
    cfg, source = _read(checkpoint_path)
    call = _equivalent(source, cfg, to)
    weights = {_rename(key, source, to): value for key, value in source.state_dict().items()}
    _verify(source, cfg, weights, call, to)

    Path(out_path).parent.mkdir(parents=True, exist_ok=True)
    wrote = f'wrote {out_path} for {to}, verified; load it with'
    if to == 'mmpretrain':
        meta = dict(source=Path(checkpoint_path).name, architecture=str(call), naming=to)
        torch.save({'state_dict': weights, 'meta': meta}, out_path)
        init_cfg = dict(type='Pretrained', checkpoint=str(out_path))
        return f'{wrote} backbone={_Call("dict", (), cfg | dict(init_cfg=init_cfg))}'
    torch.save(weights, out_path)
    load = f'model.load_state_dict(torch.load({str(out_path)!r}), strict=False)'
    return f'{wrote} model = {call}; {load}'


def _read(path: str | Path) -> tuple[dict, nn.Module]:
    """The trained backbone, and its config without any initialisation."""
    given = f'checkpoint_path={str(path)!r}'
    if not Path(path).is_file():
        raise FileNotFoundError(f'{given} is not a file: pass a checkpoint that training saved')
    checkpoint = load_checkpoint(str(path))
    prefix = 'backbone.'
    weights = {
        key.removeprefix(prefix): value
        for key, value in checkpoint.get('state_dict', {}).items()
        if key.startswith(prefix)
    }
    if not weights:
        raise ValueError(f'{given} has no {prefix}* keys: pass a checkpoint that training saved')
    config = stored_config(checkpoint)
    if config is None:
        raise ValueError(f"{given} lacks meta['cfg']: pass a checkpoint that training saved")
    cfg = config.model.backbone.to_dict()
    for key in ('init_cfg', 'pretrained', 'checkpoint_path'):
        cfg.pop(key, None)
    source = _build(cfg)
    try:
        source.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f'{given}: its backbone is not that of its own config: {error}') from error
    return cfg, source


def _build(cfg: dict) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = revert_sync_batchnorm(MODELS.build(cfg))
    backbone.eval()  # returns nothing in mmpretrain
    return backbone


def _equivalent(source: nn.Module, cfg: dict, to: str) -> _Call:
    """The call that builds the backbone's architecture in the target library."""
    if isinstance(source, TIMMBackbone):
        if to != 'timm':
            raise ValueError(f"to={to!r}: {cfg['model_name']} is a model of timm; pass to='timm'")
        wrapper_only = ('type', 'model_name', 'in_channels', 'norm_layer')
        kwargs = {key: value for key, value in cfg.items() if key not in wrapper_only}
        return _timm(cfg['model_name'], cfg, kwargs)
    if to == 'mmpretrain':
        return _Call('dict', (), cfg)
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


def _timm(name: str, cfg: dict, kwargs: dict) -> _Call:
    if 'in_channels' in cfg:
        kwargs['in_chans'] = cfg['in_channels']
    return _Call('timm.create_model', (name,), kwargs)


def _torchvision(name: str, kwargs: dict) -> _Call:
    return _Call(f'torchvision.models.{name}', (), kwargs)


def _vit(source: VisionTransformer, cfg: dict, to: str) -> _Call:
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


def _rename(key: str, source: nn.Module, to: str) -> str:
    if isinstance(source, VisionTransformer) and to != 'mmpretrain':
        for pattern, timm, torchvision in _VIT_KEYS:
            key = re.sub(pattern, timm if to == 'timm' else torchvision, key)
    return key.removeprefix('timm_model.')


@torch.no_grad()
def _verify(source: nn.Module, cfg: dict, weights: dict[str, Tensor], call: _Call, to: str) -> None:
    """Compare the backbone's output with that of the target library's model."""
    try:
        target = _build(cfg) if to == 'mmpretrain' else call.make()
        missing, unexpected = target.load_state_dict(weights, strict=False)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f'to={to!r}: {call} cannot take the backbone: {error}') from error
    names = (getattr(target, 'pretrained_cfg', None) or {}).get('classifier') or ('fc', 'heads')
    names = [names] if isinstance(names, str) else names
    missing = [key for key in missing if not key.startswith(tuple(f'{name}.' for name in names))]
    if missing or unexpected:
        raise ValueError(
            f'to={to!r}: {call} has other weights than the backbone: {missing[:3]} are missing '
            f'from the backbone and {unexpected[:3]} are not in the model'
        )
    backbone = getattr(source, 'timm_model', source)
    if to == 'torchvision':
        setattr(target, 'fc' if type(source) is ResNet else 'heads', nn.Identity())
    elif hasattr(target, 'reset_classifier'):  # the wrapper of timm's models removes the pooling
        target.reset_classifier(0, *([] if backbone is source else ['']))
    target.eval()
    images = _images(source, cfg)
    expected, actual = backbone(images), target(images)
    expected, actual = (out if isinstance(out, Tensor) else out[-1] for out in (expected, actual))
    if expected.ndim == 4 and actual.ndim == 2:
        expected = expected.mean(dim=(2, 3))
    difference = float('inf')
    if actual.shape == expected.shape:
        difference = ((actual - expected).abs().max() / expected.abs().max()).item()
    if not difference <= _TOLERANCE:  # nan is no match either
        raise ValueError(
            f'to={to!r}: {call} represents images differently, by {difference:.1e} relative, so '
            f'nothing was written; it lacks a setting of the backbone, {_Call("dict", (), cfg)}'
        )


def _images(source: nn.Module, cfg: dict) -> Tensor:
    """Two random images of a size that the backbone takes."""
    timm_cfg = getattr(getattr(source, 'timm_model', None), 'pretrained_cfg', None) or {}
    sizes = [getattr(module, 'img_size', None) for module in source.modules()]
    size = next(filter(None, sizes), timm_cfg.get('input_size', (3, 224, 224))[1:])
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, cfg.get('in_channels', 3), *size, generator=generator)
