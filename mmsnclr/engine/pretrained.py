"""A pretrained backbone is loaded in full, or training does not start."""

from collections import Counter
from os.path import exists

from mmengine.runner import CheckpointLoader
from torch import nn

from ..utils.attention_heads import check_heads


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
