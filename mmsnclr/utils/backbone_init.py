"""A backbone's initial weights, from a checkpoint in any of the known namings."""

from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ..engine.checkpoint import load_checkpoint, weights_in
from .attention_heads import check_heads
from .backbone_naming import rename


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
