"""The number of a ViT's heads, which no weight's shape tells."""

import re

from mmpretrain.models.backbones import VisionTransformer
from torch import nn


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
