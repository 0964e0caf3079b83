"""Backbones that other code trained, as a checkpoint that this toolkit's configs start from."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..checkpoints import Stored
from ..parents import quiet
from .naming import Call, build_backbone, classifiers, equivalent, rename, timm_facts, verify
from .starting import stated_heads

# Heads of the usual ViTs by width; a file of weights does not tell their number.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
# MoCo v3's ViT-S, which SNCLR's released code took over, has twice as many.
_MOCO_HEADS = _HEADS | {384: 12}
_RESNET_BLOCKS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
_IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)


class _Foreign(NamedTuple):
    """Weights of a foreign backbone, in whose naming they are, and where they come from."""

    origin: str
    naming: str
    weights: dict[str, Tensor]


@quiet()
def import_backbone(
    checkpoint: str | Path,
    out: str | Path,
    heads: int | None = None,
    timm_model: str | None = None,
) -> str:
    """Write a foreign backbone as a checkpoint to start from.

    What it is, is seen from its keys: a checkpoint of SNCLR's released code or
    of MoCo v3 (the online encoder is taken), a ResNet of torchvision or timm,
    a ViT of either. Nothing is written unless the backbone represents random
    images as the original library's model does. Files are read without
    running code that they may hold. The normalisation of images that is noted
    is timm's for a named model, else by ImageNet's mean and deviation.

    Args:
        checkpoint: ``.safetensors``, or what ``torch.save`` wrote.
        out: File to write. ``init_cfg=dict(type='Pretrained',
            checkpoint=out, prefix='backbone.')`` fills a backbone from
            it; ``meta['cfg']`` has the backbone's config.
        heads: Number of a ViT's attention heads, which weights do not tell; by
            default what a file of :func:`~.exporting.export_backbone`
            notes, else what is usual for its origin and width.
        timm_model: Name of the timm model that the weights are of, for any
            other architecture.

    Returns:
        One line that says what was found and how to start from it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the format is not known, says what was found.
    """
    given = f'checkpoint={str(checkpoint)!r}'
    if Path(out).resolve() == Path(checkpoint).resolve():
        raise ValueError(f'out={str(out)!r} would overwrite the original')
    if Path(out).is_dir():
        raise ValueError(f'out={str(out)!r} is a folder: pass the file to write')
    stored = Stored.read(checkpoint)
    foreign = _take_apart(stored, given)
    heads = heads or stated_heads(stored)
    if timm_model is not None:
        found, naming = f'{timm_model} of timm', 'timm'
        cfg = dict(type='TIMMRepresentation', model_name=timm_model)
    else:
        cfg, naming = _config(foreign, heads, given), foreign.naming
        found = f'{foreign.origin}, {cfg["type"]} '
        found += f'with {cfg["arch"]["num_heads"]} heads' if 'arch' in cfg else str(cfg['depth'])
    try:
        backbone = build_backbone(cfg)
    except (AssertionError, RuntimeError) as error:  # timm's, of what it does not know or offer
        raise ValueError(f'timm_model={timm_model!r}: {error}') from error
    names = classifiers(backbone)
    weights = {key: v for key, v in foreign.weights.items() if not key.startswith(names)}
    names = {rename(key, backbone, naming): key for key in backbone.state_dict()}
    ours = {names.get(key, key): value for key, value in weights.items()}
    _fill(backbone, ours, f'{given} ({found})')
    verify(backbone, cfg, weights, equivalent(backbone, cfg, naming), naming)

    full = dict(model=dict(backbone=cfg, data_preprocessor=_preprocessing(backbone)))
    meta = dict(source=Path(checkpoint).name, cfg=Config(full).pretty_text)
    weights = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=weights, meta=meta), out)
    init_cfg = dict(type='Pretrained', checkpoint=str(out), prefix='backbone.')
    return (
        f'found {found}; wrote {out}, verified; start from it with '
        f'backbone={Call("dict", (), cfg | dict(init_cfg=init_cfg))}'
    )


def _take_apart(stored: Stored, given: str) -> _Foreign:
    """The backbone among a file's weights, and in which format it is."""
    weights = stored.weights
    if not weights or not all(isinstance(key, str) for key in weights):
        raise ValueError(f'{given} holds {_describe(stored.content)}, not a state dict')
    if any(key.startswith('backbone.') for key in weights):
        raise ValueError(
            f'{given} has backbone.* keys, which are those of this toolkit and of OpenMMLab: '
            "use it as it is, with prefix='backbone.'"
        )
    origin = None
    if any(key.startswith('base_encoder.') for key in weights):
        of_snclr = any(key.startswith('memory_bank.') for key in weights)
        origin = "SNCLR's released code" if of_snclr else 'MoCo v3'
        weights = {
            key.removeprefix('base_encoder.'): value
            for key, value in weights.items()
            if key.startswith('base_encoder.')
        }
    if 'conv_proj.weight' in weights and 'class_token' in weights:
        return _Foreign(origin or 'torchvision', 'torchvision', weights)
    if origin is None and _has_fixed_positions(weights):
        origin = 'MoCo v3 or SNCLR (its positions are fixed)'
    naming = 'torchvision' if 'conv1.weight' in weights else 'timm'
    if origin is None:
        origin = 'timm' if naming == 'timm' else 'torchvision or timm'
    return _Foreign(origin, naming, weights)


def _has_fixed_positions(weights: dict[str, Tensor]) -> bool:
    """Whether a ViT's class token has position 0, as with MoCo v3's fixed positions."""
    return 'pos_embed' in weights and not weights['pos_embed'][0, 0].any()


def _config(foreign: _Foreign, heads: int | None, given: str) -> dict:
    """The backbone's config, from the shapes of its weights."""
    weights = foreign.weights
    if 'conv1.weight' in weights and 'layer1.0.conv1.weight' in weights:
        bottleneck = 'layer1.0.conv3.weight' in weights
        blocks = tuple(_count(weights, rf'layer{stage}\.(\d+)\.') for stage in range(1, 5))
        depth = _RESNET_BLOCKS.get((bottleneck, blocks))
        if depth is None:
            raise ValueError(
                f'{given} has a ResNet of {blocks} {"bottleneck" if bottleneck else "basic"} '
                f'blocks; known are depths {", ".join(map(str, _RESNET_BLOCKS.values()))}'
            )
        return dict(type='ResNet', depth=depth)
    if {'class_token', 'conv_proj.weight', 'encoder.pos_embedding'} <= set(weights):
        patches, positions = weights['conv_proj.weight'], weights['encoder.pos_embedding']
        layer = r'encoder\.layers\.encoder_layer_(\d+)\.'
        hidden = weights.get('encoder.layers.encoder_layer_0.mlp.0.weight')
    elif {'cls_token', 'patch_embed.proj.weight', 'pos_embed'} <= set(weights):
        patches, positions = weights['patch_embed.proj.weight'], weights['pos_embed']
        layer = r'blocks\.(\d+)\.'
        hidden = weights.get('blocks.0.mlp.fc1.weight')
    else:
        raise ValueError(
            f'{given} holds {_describe(weights)}, which is none of the formats that are known: '
            "SNCLR's released code, MoCo v3, a ResNet or ViT of torchvision or timm; for another "
            'model of timm pass its name (--timm-model)'
        )
    grid = math.isqrt(positions.shape[1] - 1)
    if patches.ndim != 4 or hidden is None or grid**2 != positions.shape[1] - 1:
        raise ValueError(
            f'{given} holds {_describe(weights)}, a ViT of another kind: without class token, with '
            'a convolutional stem, or not square; if timm has it, pass its name (--timm-model)'
        )
    width, patch = patches.shape[0], patches.shape[-1]
    of_moco = foreign.origin.startswith(('MoCo', 'SNCLR'))
    heads = heads or (_MOCO_HEADS if of_moco else _HEADS).get(width)
    if heads is None or width % heads:
        raise ValueError(
            f'{given} has a ViT of width {width}, whose weights do not tell the number of its '
            f'attention heads: pass it (--heads), a divisor of {width}'
        )
    arch = dict(
        embed_dims=width,
        num_layers=_count(weights, layer),
        num_heads=heads,
        feedforward_channels=hidden.shape[0],
    )
    cfg = dict(type='VisionTransformer', arch=arch, img_size=grid * patch, patch_size=patch)
    if of_moco:
        cfg |= dict(type='MoCoV3ViT', stop_grad_conv1=True)
    return cfg | dict(out_type='cls_token')


def _count(weights: dict[str, Tensor], pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, weights) if match})


def _fill(backbone: nn.Module, weights: dict[str, Tensor], given: str) -> None:
    expected = backbone.state_dict()
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]
    shapes = [
        f'{key} {tuple(value.shape)} where {tuple(expected[key].shape)} is meant'
        for key, value in weights.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f'{given}: its weights are of another network: {len(missing)} are missing '
            f'{missing[:3]}, {len(unexpected)} too many {unexpected[:3]}, {len(shapes)} of other '
            f'shape {shapes[:3]}; for another model of timm pass its name (--timm-model)'
        )
    backbone.load_state_dict(weights)


def _preprocessing(backbone: nn.Module) -> dict:
    """How images are to be normalised: as timm says, else by ImageNet's statistics."""
    stated = timm_facts(backbone)
    if 'mean' not in stated or 'std' not in stated:
        return _IMAGENET
    return dict(
        mean=[255 * value for value in stated['mean']],
        std=[255 * value for value in stated['std']],
        to_rgb=True,
    )


def _describe(content: object) -> str:
    if not isinstance(content, dict):
        return f'a {type(content).__name__}'
    names = [str(key) for key in content]
    return f'{len(names)} entries ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
