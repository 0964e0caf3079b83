"""What a backbone starts from: filled from any naming, and checked to be filled in full."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from os.path import exists
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from mmpretrain.models.backbones import VisionTransformer
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ..checkpoints import Stored
from .naming import rename
from .origins import take_apart
from .reading import check_finite, filtered_by_timm, stated_heads


def check_starts(**starts: Sequence[str | Path]) -> None:
    """Refuse what is neither a file or folder nor ``'random'``, the word for random weights.

    Args:
        **starts: What was given, by the names of the settings.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    for name, given in starts.items():
        for start in given:
            if start != 'random' and not exists(start):
                raise FileNotFoundError(
                    f"{name}={str(start)!r} is no file, and not 'random', the word for random "
                    'weights'
                )


def name_starts(backbone: str | Path, compare: Sequence[str | Path]) -> dict[str, str]:
    """Name what trainings that are compared start from.

    Args:
        backbone: A checkpoint, or ``'random'``: what is asked for.
        compare: The others.

    Returns:
        Each by its name: ``'pretrained'``, ``'random'``, ``'compared'``, ``'compared_2'``, ...

    Raises:
        ValueError: If one is given twice.
    """
    sources = [str(source) for source in (backbone, *compare)]
    twice = [source for source in sources if sources.count(source) > 1]
    if twice:
        raise ValueError(f'{twice[0]!r} is given twice in backbone and compare: leave one out')
    others = [source for source in sources[1:] if source != 'random']
    names = {source: f'compared_{n}' if n > 1 else 'compared' for n, source in enumerate(others, 1)}
    names = {sources[0]: 'pretrained'} | names | dict(random='random')
    return {names[source]: source for source in sources}


def initialize_backbone(backbone: nn.Module, stored: Stored) -> None:
    """Fill a backbone from a checkpoint of any origin that :mod:`.origins` knows, or another's.

    Naming and prefix are found by trying; positions of another image size are
    resampled. A model of timm takes what timm itself makes of other formats.

    Args:
        backbone: Its weights are overwritten.
        stored: The checkpoint.

    Raises:
        ValueError: If it fills fewer than all weights of the backbone, or with what is not
            finite, has several backbones that would, or its attention has another number of heads.
    """
    given = f'init={str(stored.path)!r}'
    _check_heads(backbone, stored, given)
    best: dict[str, Tensor] = {}
    wanted, prefix_of_best, others = backbone.state_dict(), '', []
    origin, weights = take_apart(stored)
    sources = (
        (origin.prefix, weights),
        ('', stored.weights),
        (origin.prefix, filtered_by_timm(weights, backbone)),
    )
    for (start, weights), naming in product(sources, ('mmpretrain', 'torchvision', 'timm')):
        keys = {rename(key, backbone, naming): key for key in wanted}

        def fitted(name: str, value: Tensor, keys: dict[str, str] = keys) -> Tensor | None:
            value = _resampled(keys[name], value, wanted[keys[name]], backbone)
            return value if value.shape == wanted[keys[name]].shape else None

        prefixes = _prefixes(keys, weights, lambda *x: fitted(*x) is not None)
        prefix, count = prefixes[0]
        if count > len(best):
            found = {keys[n]: fitted(n, v) for n, v in _below(prefix, keys, weights)}
            best = {key: value for key, value in found.items() if value is not None}
            prefix_of_best = start + prefix
            of_it = dict(_below(prefix, keys, weights))
            others = [
                start + other
                for other, its_count in prefixes[1:]
                if its_count == count
                and 'teacher' not in prefix
                and any(not v.equal(of_it[n]) for n, v in _below(other, keys, weights))
            ]
    # Counters, which are integers, may be missing: old checkpoints have none.
    missing = [key for key in wanted if key not in best and wanted[key].is_floating_point()]
    if missing:
        raise ValueError(
            f'{given} fills {len(best)} of the {len(wanted)} weights of the backbone, '
            f'under prefix {prefix_of_best!r}; missing, or of another shape: '
            f'{", ".join(missing[:3])}. Pass a checkpoint of the same architecture'
        )
    if others:
        raise ValueError(
            f'{given} has several backbones, under the prefixes {[prefix_of_best, *others]}: save '
            'the one to start from alone'
        )
    check_finite(best, given)
    backbone.load_state_dict(best, strict=False)


def _prefixes(
    names: Iterable[str], weights: Mapping[str, Tensor], fits: Callable[[str, Tensor], bool]
) -> list[tuple[str, int]]:
    """Prefixes, dot included, and how many of the names are under each.

    The most common first, of equal ones that of a teacher, which is what self-distillation is for.
    """
    hits = Counter(
        key.removesuffix(name)
        for name in names
        for key, value in weights.items()
        if (key == name or key.endswith(f'.{name}')) and fits(name, value)
    )
    return sorted(hits.items(), key=lambda hit: (-hit[1], 'teacher' not in hit[0])) or [('', 0)]


def _below(
    prefix: str, names: Iterable[str], weights: Mapping[str, Tensor]
) -> Iterable[tuple[str, Tensor]]:
    """Those of the names that are there under a prefix, with their weights."""
    return ((name, weights[prefix + name]) for name in names if prefix + name in weights)


def _resampled(key: str, value: Tensor, wanted: Tensor, backbone: nn.Module) -> Tensor:
    """Position embeddings on the backbone's grid; all else as it is."""
    if not key.endswith('pos_embed') or value.shape == wanted.shape or value.ndim != 3:
        return value
    extra = getattr(getattr(backbone, 'timm_model', None), 'num_prefix_tokens', 1)
    edge, old = ((tokens.shape[1] - extra) ** 0.5 for tokens in (wanted, value))
    if edge % 1 or old % 1:
        return value
    with torch.no_grad():
        return resample_abs_pos_embed(value, [int(edge)] * 2, num_prefix_tokens=extra)


def check_pretrained(model: nn.Module) -> list[Stored]:
    """Check every ``Pretrained`` initialisation of a model.

    mmengine logs the keys that a checkpoint lacks and trains on, so that a
    wrong prefix means a randomly initialised backbone.

    Args:
        model: A model, not wrapped, whose weights have not been initialised yet.

    Returns:
        The checkpoints, for :func:`~mmsnclr.checkpoints.at_hand`.

    Raises:
        FileNotFoundError: If a checkpoint is not there.
        ValueError: If a checkpoint fills fewer than all parameters of its
            module, in which case the first missing keys and the prefix to try
            are named, or is of a ViT with another number of heads.
    """
    read: dict[str, Stored] = {}
    checked = set()
    for name, module in model.named_modules():
        path = f'model.{name}.init_cfg' if name else 'model.init_cfg'
        for part, setting, cfg in _pretrained(module, path, getattr(module, 'init_cfg', None)):
            checkpoint, prefix = cfg.get('checkpoint'), cfg.get('prefix')
            if (checkpoint, prefix, type(part)) in checked:
                continue
            checked.add((checkpoint, prefix, type(part)))
            if not checkpoint or ('://' not in checkpoint and not exists(checkpoint)):
                raise FileNotFoundError(
                    f'no checkpoint at {checkpoint!r}: set {setting}.checkpoint to a pretrained '
                    'backbone'
                )
            if checkpoint not in read:
                content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
                if 'state_dict' not in content:  # where else mmengine looks: on top, no deeper
                    top = {key: v for key, v in content.items() if isinstance(v, Tensor)}
                    content = dict(state_dict=top)
                read[checkpoint] = Stored(Path(checkpoint), content)
            _check_heads(part, read[checkpoint], checkpoint)
            _check_filled(part, name or type(part).__name__, setting, read[checkpoint], prefix)
    return list(read.values())


def _pretrained(
    module: nn.Module, setting: str, init_cfg: dict | list | None
) -> Iterable[tuple[nn.Module, str, dict]]:
    """The parts that an ``init_cfg`` fills from a checkpoint, and the settings that say so."""
    if isinstance(init_cfg, (list, tuple)):
        for number, cfg in enumerate(init_cfg):
            yield from _pretrained(module, f'{setting}.{number}', cfg)
    elif init_cfg:
        part = getattr(module, init_cfg.get('name', ''), module)  # overrides name theirs
        if init_cfg.get('type') == 'Pretrained':
            yield part, setting, init_cfg
        yield from _pretrained(module, f'{setting}.override', init_cfg.get('override'))


def _check_filled(
    module: nn.Module, name: str, setting: str, stored: Stored, prefix: str | None
) -> None:
    """Check that a checkpoint has all parameters of a module under a prefix."""
    start = f'{prefix.rstrip(".")}.' if prefix else ''
    wanted = {key: parameter.shape for key, parameter in module.named_parameters()}
    there = {key: value.shape for key, value in _below(start, wanted, stored.weights)}
    missing = [key for key, shape in wanted.items() if there.get(key) != shape]
    if not missing:
        return
    best, count = _prefixes(wanted, stored.weights, lambda key, x: x.shape == wanted[key])[0]
    if not count:
        advice = 'None of its keys fits: the checkpoint is of another network.'
    elif best == start:
        advice = 'No other prefix fits better: the checkpoint lacks them.'
    else:
        fit = 'all' if count == len(wanted) else f'{count}'
        advice = f'Under prefix {best!r} {fit} would fit: set {setting}.prefix={best!r}.'
    raise ValueError(
        f'{stored.path} fills {len(wanted) - len(missing)} of the {len(wanted)} parameters of '
        f'{name} ({type(module).__name__}) with prefix {prefix!r}; missing, or of another shape: '
        f'{", ".join(missing[:3])}, ... {advice} If the rest is '
        'meant to be trained from scratch, pass --allow-partial-pretrained to tools/train.py.'
    )


def _check_heads(backbone: nn.Module, stored: Stored, source: str) -> None:
    """Compare a ViT's number of attention heads with a checkpoint's, if it or its origin tells."""
    if not isinstance(backbone, VisionTransformer):
        return
    ours, width = backbone.arch_settings['num_heads'], backbone.embed_dims
    theirs = stated_heads(stored) or (take_apart(stored)[0].heads or {}).get(width)
    if theirs not in (None, ours):
        raise ValueError(
            f'{source} is a ViT with {theirs} heads, the backbone has {ours}: its weights would '
            'fit and compute something else. Give model.backbone.arch as the checkpoint has it'
        )
