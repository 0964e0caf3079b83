"""What a backbone starts from: filled from any naming, and checked to be filled in full."""

import re
from collections import Counter
from os.path import exists
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from mmpretrain.models.backbones import VisionTransformer
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ..checkpoints.reading import load_checkpoint, weights_in
from .naming import rename


def initialize_backbone(backbone: nn.Module, path: str | Path) -> None:
    """Fill a backbone from a checkpoint of torchvision, timm, mmpretrain or mmsnclr.

    Naming and prefix are found by trying; positions of another image size are
    resampled.

    Args:
        backbone: Its weights are overwritten.
        path: The checkpoint.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it fills fewer than all weights of the backbone, or its
            attention has another number of heads.
    """
    checkpoint = load_checkpoint(str(path))
    check_heads(backbone, checkpoint, f'init={str(path)!r}')
    stored = weights_in(checkpoint)
    wanted = backbone.state_dict()
    best, prefix_of_best = {}, ''
    for naming in ('mmpretrain', 'torchvision', 'timm'):
        names = {key: rename(key, backbone, naming) for key in wanted}
        first = next(iter(names.values()))
        for prefix in [key.removesuffix(first) for key in stored if key.endswith(first)]:
            filled = {k: stored[prefix + n] for k, n in names.items() if prefix + n in stored}
            filled = {k: _fit(k, v, wanted[k], backbone) for k, v in filled.items()}
            filled = {k: v for k, v in filled.items() if v.shape == wanted[k].shape}
            if len(filled) > len(best):
                best, prefix_of_best = filled, prefix
    # Counters, which are integers, may be missing: old checkpoints have none.
    missing = [key for key in wanted if key not in best and wanted[key].is_floating_point()]
    if missing:
        raise ValueError(
            f'init={str(path)!r} fills {len(best)} of the {len(wanted)} weights of the backbone, '
            f'under prefix {prefix_of_best!r}; missing, or of another shape: '
            f'{", ".join(missing[:3])}. Pass a checkpoint of the same architecture'
        )
    backbone.load_state_dict(best, strict=False)


def _fit(key: str, value: Tensor, wanted: Tensor, backbone: nn.Module) -> Tensor:
    """Resample position embeddings to the backbone's grid."""
    if not key.endswith('pos_embed') or value.shape == wanted.shape or value.ndim != 3:
        return value
    extra = getattr(getattr(backbone, 'timm_model', None), 'num_prefix_tokens', 1)
    edge, old = ((tokens.shape[1] - extra) ** 0.5 for tokens in (wanted, value))
    if edge % 1 or old % 1:
        return value
    with torch.no_grad():
        return resample_abs_pos_embed(value, [int(edge)] * 2, num_prefix_tokens=extra)


def check_pretrained(model: nn.Module) -> None:
    """Check every ``Pretrained`` initialisation of a model.

    mmengine logs the keys that a checkpoint lacks and trains on, so that a
    wrong prefix means a randomly initialised backbone.

    Args:
        model: A model whose weights have not been initialised yet.

    Raises:
        FileNotFoundError: If a checkpoint is not there.
        ValueError: If a checkpoint fills fewer than all parameters of its
            module, in which case the first missing keys and the prefix to try
            are named, or is of a ViT with another number of heads.
    """
    if hasattr(model, 'module'):
        model = model.module
    checked = set()
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        for cfg in [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []:
            source = (cfg.get('checkpoint'), cfg.get('prefix'), type(module))
            if cfg.get('type') == 'Pretrained' and source not in checked:
                checked.add(source)
                _check(name or type(module).__name__, module, *source[:2])


def _check(name: str, module: nn.Module, checkpoint: str, prefix: str | None) -> None:
    setting = f'model.{name}.init_cfg' if name != type(module).__name__ else 'model.init_cfg'
    if not checkpoint or ('://' not in checkpoint and not exists(checkpoint)):
        raise FileNotFoundError(
            f'no checkpoint at {checkpoint!r}: set {setting}.checkpoint to a pretrained backbone'
        )
    stored = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    check_heads(module, stored, checkpoint)
    stored = stored.get('state_dict', stored)
    stored = {key.removeprefix('module.'): value.shape for key, value in stored.items()}
    start = f'{prefix.rstrip(".")}.' if prefix else ''
    wanted = {key: parameter.shape for key, parameter in module.named_parameters()}
    missing = [key for key, shape in wanted.items() if stored.get(start + key) != shape]
    if not missing:
        return
    raise ValueError(
        f'{checkpoint} fills {len(wanted) - len(missing)} of the {len(wanted)} parameters of '
        f'{name} ({type(module).__name__}) with prefix {prefix!r}; missing, or of another shape: '
        f'{", ".join(missing[:3])}, ... {_advice(setting, start, wanted, stored)} If the rest is '
        'meant to be trained from scratch, pass --allow-partial-pretrained to tools/train.py.'
    )


def _advice(setting: str, prefix: str, wanted: dict, stored: dict) -> str:
    """The prefix under which most of the wanted keys are stored."""
    hits = Counter(
        key.removesuffix(name)
        for name, shape in wanted.items()
        for key in stored
        if (key == name or key.endswith(f'.{name}')) and stored[key] == shape
    )
    if not hits:
        return 'None of its keys fits: the checkpoint is of another network.'
    best, count = hits.most_common(1)[0]
    if best == prefix:
        return 'No other prefix fits better: the checkpoint lacks them.'
    fit = 'all' if count == len(wanted) else f'{count}'
    return f'Under prefix {best!r} {fit} would fit: set {setting}.prefix={best!r}.'


def check_heads(backbone: nn.Module, checkpoint: object, source: str) -> None:
    """Compare a backbone's number of attention heads with a checkpoint's.

    Args:
        backbone: What the checkpoint is to fill; other networks than ViTs pass.
        checkpoint: What was loaded; without a config of its own it passes.
        source: What to call the checkpoint.

    Raises:
        ValueError: If the numbers differ.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    text = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(backbone, VisionTransformer) or not isinstance(text, str):
        return
    arch = re.search(r"\barch='([\w-]+)'", text)
    heads = re.search(r'\bnum_heads=(\d+)', text)
    # MoCoV3ViT adds its own architecture to these only when it is built.
    known = {'mocov3-small': dict(num_heads=12)} | VisionTransformer.arch_zoo
    theirs = int(heads[1]) if heads else known.get(arch and arch[1], {}).get('num_heads')
    ours = backbone.arch_settings['num_heads']
    if theirs not in (None, ours):
        raise ValueError(
            f'{source} is a ViT with {theirs} heads, the backbone has {ours}: its weights would '
            'fit and compute something else. Give model.backbone.arch as the checkpoint has it'
        )
