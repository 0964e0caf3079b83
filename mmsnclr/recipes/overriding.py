"""What a user overrides in a recipe, tried before it costs time."""

import copy
import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..datasets.views import view_size
from ..engine import build_runner
from ..parents import without_prints

DRAFT_IMAGES = 1024  # enough for a batch
# What mmengine reads in a config beside the Runner's own arguments.
_FURTHER = ('find_unused_parameters', 'model_wrapper_cfg', 'activation_checkpointing', 'sync_bn')


def overridden(cfg: Config, options: dict | None) -> Config:
    """A copy of a config with what a user overrides.

    Raises:
        ValueError: If a key leads nowhere.
    """
    cfg = copy.deepcopy(cfg)
    with _naming(options):
        cfg.merge_from_dict(options or {})
    return cfg


def flattened(options: dict | None) -> dict:
    """Settings that are given as dictionaries, each by its own key; but what replaces another.

    Args:
        options: Settings by dotted keys.

    Returns:
        ``{'train_cfg.max_epochs': 3}`` for ``{'train_cfg': dict(max_epochs=3)}``.
    """
    found: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if isinstance(value, dict) and value and '_delete_' not in value:
            value = flattened({f'{key}.{name}': part for name, part in value.items()})
            found |= value
        else:
            found[key] = value
    return found


def try_overrides(cfg: Config, options: dict) -> None:
    """Build all that a training builds, as a user overrides it, and compute a loss.

    Args:
        cfg: A config of pretraining for ``DRAFT_IMAGES`` images, of which none is read.
        options: What the user overrides in it.

    Raises:
        ValueError: If an option cannot be used.
    """
    known = {*cfg, *inspect.signature(Runner).parameters, *_FURTHER}
    unknown = sorted({key.partition('.')[0] for key in options} - known)
    if unknown:
        raise ValueError(
            f'cfg_options: a config has no {", ".join(unknown)}; it has {", ".join(sorted(cfg))}'
        )
    with tempfile.TemporaryDirectory() as folder, without_prints(), _naming(options):
        cfg = overridden(cfg, options)
        names = Path(folder, 'images.txt')
        names.write_text(f'{names}\n' * DRAFT_IMAGES, encoding='utf-8')
        cfg.work_dir, cfg.train_dataloader.dataset.ann_file = folder, str(names)
        cfg.model.pop('compile_backbone', None)  # it would take minutes
        runner = build_runner(cfg)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        if runner.param_schedulers is not None:
            runner.build_param_scheduler(runner.param_schedulers)
        size, device = view_size(cfg), next(runner.model.parameters()).device
        views = [torch.randn(2, 3, size, size, device=device) for _ in range(2)]
        with torch.no_grad():
            runner.model(views, None, mode='loss')


@contextmanager
def _naming(options: dict | None) -> Iterator[None]:
    """Name the options where a part does not know, or cannot use, a setting."""
    try:
        yield
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        if not options:
            raise
        raise ValueError(f'cfg_options={options} cannot be used: {error}') from error
