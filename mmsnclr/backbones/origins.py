"""Where a backbone comes from: what tells each kind of file, and what is the backbone in it."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ..checkpoints import Stored
from .naming import rename_vit

# Heads of the usual ViTs by width; a file of weights does not tell their number.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
# MoCo v3's ViT-S, which SNCLR's released code took over, has twice as many.
_MOCO_HEADS = _HEADS | {384: 12}
_RESNET_BLOCKS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
_NUMBERED_RESNET = {'0': 'conv1', '1': 'bn1', **{f'{3 + i}': f'layer{i}' for i in (1, 2, 3, 4)}}
_VIT_NAMINGS = ('mmpretrain', 'timm', 'torchvision')


class Origin(NamedTuple):
    """A kind of file that a backbone may come in.

    Attributes:
        name: Who writes such files.
        sign: How a name begins that no other kind has, of a weight or of what
            lies beside the weights; a regular expression.
        prefix: How the names of the backbone's weights begin.
        beside: How those begin, after the prefix, that are not the backbone's.
        parts: Names of the network's parts where it has numbers for them.
        heads: A ViT's attention heads by its width. ``None``: MoCo v3's, if the
            positions are fixed as there, else the usual.
        like: A model of timm of the kind that the file holds, where no other
            library has that kind.
    """

    name: str
    sign: str
    prefix: str = ''
    beside: tuple[str, ...] = ()
    parts: Mapping[str, str] = {}
    heads: Mapping[int, int] | None = None
    like: str = ''

    def backbone(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The backbone's weights of all in a file, without the prefix."""
        below = {
            key.removeprefix(self.prefix): value
            for key, value in weights.items()
            if key.startswith(self.prefix)
        }
        if not self.parts:
            return {key: v for key, v in below.items() if not key.startswith(self.beside)}
        split = ((*key.partition('.'), value) for key, value in below.items())
        return {
            self.parts[part] + dot + rest: value
            for part, dot, rest, value in split
            if part in self.parts
        }


OPENMMLAB = Origin('backbone.* keys', r'backbone\.', 'backbone.')
# The first whose sign is seen is taken.
ORIGINS = (
    Origin("SNCLR's released code", r'memory_bank\.', 'base_encoder.', heads=_MOCO_HEADS),
    Origin('MoCo v3', r'base_encoder\.(?!\d)', 'base_encoder.', heads=_MOCO_HEADS),
    Origin('MoCo v1 or v2', r'encoder_q\.(?!\d)', 'encoder_q.'),
    Origin('SwAV', r'prototypes\.', beside=('prototypes.', 'projection_head.')),
    Origin('DINO', 'student$', 'backbone.'),
    Origin('I-JEPA', r'target_encoder\.', 'target_encoder.', like='vit_huge_patch14_gap_224'),
    Origin('MAE', r'decoder_embed\.', beside=('decoder_', 'mask_token'), heads=_HEADS),
    Origin('DINOv2 or BEiT', 'mask_token$', like='vit_small_patch14_dinov2'),
    Origin('a detector of torchvision', r'backbone\.body\.', 'backbone.body.'),
    Origin('Lightly', r'backbone\.0\.weight$', 'backbone.', parts=_NUMBERED_RESNET),
    Origin("mmpretrain's wrapper of timm", r'backbone\.timm_model\.', 'backbone.timm_model.'),
    OPENMMLAB,
)


def take_apart(stored: Stored) -> tuple[Origin, dict[str, Tensor]]:
    """Where a file comes from, and the backbone's weights in it, without prefix.

    A file of no kind in :data:`ORIGINS` is searched for one ResNet or ViT.

    Raises:
        ValueError: If it has no weights.
    """
    weights, content = stored.weights, stored.content
    if not weights or not all(isinstance(key, str) for key in weights):
        raise ValueError(f'{stored.path} holds {_describe(content)}, not a state dict')
    names = [*weights, *map(str, content if isinstance(content, dict) else ())]
    for origin in ORIGINS:
        if any(re.match(origin.sign, name) for name in names) and origin.backbone(weights):
            return origin, origin.backbone(weights)
    marks = ['layer1.0.conv1.weight', *(rename_vit('layers.0.ln1.weight', n) for n in _VIT_NAMINGS)]
    prefixes = {
        key.removesuffix(mark)
        for key in weights
        for mark in marks
        if key == mark or key.endswith(f'.{mark}')
    }
    prefix = prefixes.pop() if len(prefixes) == 1 else ''
    origin = Origin(prefix and f'{prefix}* keys', '', prefix)
    return origin, origin.backbone(weights)


class Architecture(NamedTuple):
    """A backbone's config in mmpretrain's words, in whose naming its weights are, and in words."""

    cfg: dict
    naming: str
    what: str


def architecture(
    origin: Origin, weights: Mapping[str, Tensor], heads: int | None, path: object
) -> Architecture:
    """The architecture that weights are of, by their names and shapes.

    Args:
        origin: What :func:`take_apart` gave, with the weights.
        weights: The weights.
        heads: Number of a ViT's attention heads, which they do not tell; by
            default what is usual for its origin and width.
        path: The file, to be named in errors.

    Raises:
        ValueError: If it is not known, or the heads are not.
    """
    if origin.like:
        raise ValueError(
            f'{path} is of {origin.name}, whose models only timm has: pass the name of this one '
            f'to `mmsnclr import`, such as --timm-model {origin.like}'
        )
    if {'conv1.weight', 'layer1.0.conv1.weight'} <= weights.keys():
        cfg = _resnet(weights, path)
        what = f'{origin.name or "torchvision or timm"}, ResNet {cfg["depth"]}'
        return Architecture(cfg, 'torchvision', what)
    for naming in _VIT_NAMINGS:
        names = ('cls_token', 'pos_embed', 'patch_embed.projection.weight')
        if {rename_vit(name, naming) for name in names} <= weights.keys():
            of_moco = origin.heads is _MOCO_HEADS or (not origin.heads and _has_fixed(weights))
            cfg = _vit(weights, naming, heads, of_moco, path)
            who = 'MoCo v3 or SNCLR (its positions are fixed)' if of_moco else naming
            what = f'{origin.name or who}, {cfg["type"]} with {cfg["arch"]["num_heads"]} heads'
            return Architecture(cfg, naming, what)
    if origin.prefix == 'backbone.timm_model.':
        raise ValueError(
            f'{path} has no config, and its {origin.prefix}* weights do not tell which model of '
            'timm they are of: pass its name to `mmsnclr import` (--timm-model)'
        )
    raise ValueError(
        f'{path} holds {_describe(weights)}, which is none of the formats that are known: '
        f'{", ".join(origin.name for origin in ORIGINS)}, a ResNet or ViT of torchvision, timm or '
        'mmpretrain; for another model of timm pass its name to `mmsnclr import` (--timm-model)'
    )


def _resnet(weights: Mapping[str, Tensor], path: object) -> dict:
    bottleneck = 'layer1.0.conv3.weight' in weights
    blocks: tuple[int, ...] = tuple(_count(weights, f'layer{stage}.0.') for stage in range(1, 5))
    depth = _RESNET_BLOCKS.get((bottleneck, blocks))
    if depth is None:
        raise ValueError(
            f'{path} has a ResNet of {blocks} {"bottleneck" if bottleneck else "basic"} '
            f'blocks; known are depths {", ".join(map(str, _RESNET_BLOCKS.values()))}'
        )
    return dict(type='ResNet', depth=depth)


def _vit(
    weights: Mapping[str, Tensor], naming: str, heads: int | None, of_moco: bool, path: object
) -> dict:
    positions, patches = (
        weights[rename_vit(key, naming)] for key in ('pos_embed', 'patch_embed.projection.weight')
    )
    hidden = weights.get(rename_vit('layers.0.ffn.layers.0.0.weight', naming))
    grid = math.isqrt(positions.shape[1] - 1)
    if patches.ndim != 4 or hidden is None or grid**2 != positions.shape[1] - 1:
        raise ValueError(
            f'{path} holds {_describe(weights)}, a ViT of another kind: without class token, with '
            'a convolutional stem, or not square; if timm has it, pass its name to `mmsnclr '
            'import` (--timm-model)'
        )
    width, patch = patches.shape[0], patches.shape[-1]
    heads = heads or (_MOCO_HEADS if of_moco else _HEADS).get(width)
    if heads is None or width % heads:
        raise ValueError(
            f'{path} has a ViT of width {width}, whose weights do not tell the number of its '
            f'attention heads: pass it to `mmsnclr import` (--heads), a divisor of {width}'
        )
    arch = dict(
        embed_dims=width,
        num_layers=_count(weights, rename_vit('layers.0.', naming)),
        num_heads=heads,
        feedforward_channels=hidden.shape[0],
    )
    cfg = dict(type='VisionTransformer', arch=arch, img_size=grid * patch, patch_size=patch)
    if of_moco:
        cfg |= dict(type='MoCoV3ViT', stop_grad_conv1=True)
    return cfg | dict(out_type='cls_token')


def _has_fixed(weights: Mapping[str, Tensor]) -> bool:
    """Whether a ViT's class token has position 0, as with MoCo v3's fixed positions."""
    return 'pos_embed' in weights and not weights['pos_embed'][0, 0].any()


def _count(weights: Mapping[str, Tensor], start: str) -> int:
    """How many numbers there are in the place of a 0 where names begin."""
    pattern = re.compile(re.escape(start).replace('0', r'(\d+)'))
    return len({match[1] for match in map(pattern.match, weights) if match})


def _describe(content: object) -> str:
    if not isinstance(content, dict):
        return f'a {type(content).__name__}'
    names = [str(key) for key in content]
    return f'{len(names)} entries ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
