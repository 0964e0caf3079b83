"""Pretraining on a user's own images."""

import copy
import csv
import inspect
import os
import re
import time as clock
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from ..backbones.starting import initialize_backbone
from ..checkpoints.choosing import newest_checkpoint
from ..console import Setting, say, settings_table
from ..datasets.listing import list_images, read_labels
from ..datasets.scan import Scan, scan_images
from ..datasets.views import view_size
from ..engine import build_runner
from ..engine.cost import seconds_per_step
from ..engine.optim import set_amp
from ..engine.run import relocated
from ..parents import only_progress
from ..recipes.pretraining import fit_to_epochs, fit_to_images, load_recipe, set_size

_UNITS = dict(d=86_400, h=3600, m=60, s=1)
# Settings that are arguments, and those that are shown.
_ARGUMENTS = {'train_dataloader.batch_size': 'batch', 'train_cfg.max_epochs': 'epochs'}
_ROWS = {
    'model.queue.length': 'set length',
    'model.head.neighbors': 'K',
    'model.head.loss.form': 'loss',
    'model.momentum_coefficient': 'coefficient',
    'optim_wrapper.optimizer.lr': 'learning rate',
    'default_hooks.checkpoint.interval': 'checkpoints',
}


def pretrain(
    images: Sequence[str | Path],
    out: str | Path,
    backbone: str = 'r50',
    init: str | Path | None = None,
    epochs: int | None = None,
    time: str | None = None,
    batch: int | None = None,
    size: int | None = None,
    workers: int | None = None,
    labels: str | Path | None = None,
    image_root: str | Path | None = None,
    min_edge: int = 32,
    amp: bool = True,
    cfg_options: dict | None = None,
    resume: bool = False,
) -> Path:
    """Pretrain a backbone on images without labels.

    Scans the images, derives settings from their number, prints these, writes
    them as ``out/config.py`` and trains. ``tools/train.py out/config.py``
    continues the run or, with another ``--work-dir``, repeats it.

    Args:
        images: Folders, text files with paths, COCO json files or image files.
        out: Folder for config, lists, logs and checkpoints.
        backbone: ``'r18'``, ``'r34'``, ``'r50'``, ``'r101'``, ``'vit-s'``,
            ``'vit-b'`` or the name of a timm model.
        init: Checkpoint to start from, of torchvision, timm, mmpretrain or an
            earlier run.
        epochs: How often each image is seen.
        time: Budget such as ``'30m'`` or ``'1h30m'`` from which epochs follow.
        batch: Images of a step.
        size: Edge of a view, in pixels.
        workers: Processes that load images.
        labels: ``'folders'``, where the folder names are the labels, or a csv
            file with the columns ``path`` and ``label``. For evaluation in the
            log only.
        image_root: Folder from which paths in text, json and csv files are
            meant; by default the file's.
        min_edge: Images with a shorter edge are left out, in pixels.
        amp: Whether to train in mixed precision.
        cfg_options: Settings of the config to override, such as
            ``{'model.head.neighbors': 10}``.
        resume: Whether to continue the run in ``out``; other arguments are
            then those of the run.

    Returns:
        The last checkpoint.

    Raises:
        FileNotFoundError: If an image, a checkpoint or the run to resume is not
            there.
        ValueError: If an argument is not usable, the images are too few, or
            ``out`` holds a run already.
    """
    arguments = {
        name: _plain(name, value)
        for name, value in locals().items()
        if name not in ('out', 'resume')
    }
    start, out = clock.perf_counter(), Path(os.path.abspath(out))
    config = out / 'config.py'
    init_default_scope('mmpretrain')
    if config.exists():
        if not resume:
            raise ValueError(
                f'{out} holds a run already: pass --resume to continue it, or another --out'
            )
        cfg = Config.fromfile(config)
        if 'arguments' not in cfg:
            raise ValueError(f'{config} is not of a pretraining: choose another --out')
        _check_unchanged(config, cfg.arguments, arguments)
        if cfg.work_dir != str(out):
            cfg = relocated(cfg, out)
            cfg.dump(config)
        newest, _ = newest_checkpoint(str(out))
        last = out / f'epoch_{cfg.train_cfg.max_epochs}.pth'
        if newest == str(last):
            say(f'the run in {out} is at its end already')
            return last
        say(
            f'no checkpoint in {out} yet: starting from the beginning'
            if newest is None
            else f'continuing from {newest}'
        )
        return _train(config)
    if not images:
        raise ValueError(f'there is no run to continue in {out}: pass images')
    if epochs is not None and time is not None:
        raise ValueError(f'epochs={epochs} and time={time!r} say the same: pass one of them')
    least = dict(epochs=1, batch=2, size=16, workers=0)
    for name, minimum in least.items():
        if arguments[name] is not None and arguments[name] < minimum:
            raise ValueError(f'{name}={arguments[name]} must be at least {minimum}')
    for key, name in _ARGUMENTS.items():
        if key in (cfg_options or {}):
            raise ValueError(f'cfg_options: pass {name} instead of {key}, on which others depend')
    budget = None if time is None else parse_time(time)

    cfg = load_recipe(backbone)
    # What does not fit is refused before the images are read, which may take hours.
    draft = copy.deepcopy(cfg)
    set_size(draft.model.backbone, size or 224)
    draft.merge_from_dict(cfg_options or {})
    _build_backbone(draft.model.backbone, backbone, size or 224, init)
    out.mkdir(parents=True, exist_ok=True)
    scan = _scan(out, images, labels, image_root, min_edge)
    count = len(scan.accepted)
    edge = sorted(scan.edges)[count // 2] if count else 0
    settings = fit_to_images(cfg, count, edge, batch, size)
    workers = min(8, len(os.sched_getaffinity(0))) if workers is None else workers
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    cfg.train_dataloader.dataset.ann_file = str(out / 'images.txt')
    if labels is not None:
        cfg.train_dataloader.dataset.labels = str(out / 'labels.csv')
    # Resumed if there is something to resume from, as after an interruption.
    cfg.work_dir, cfg.resume = str(out), True
    cfg.default_hooks.preemption = dict(type='PreemptionHook', interrupt=True)
    if amp:
        set_amp(cfg)
    cfg.merge_from_dict(cfg_options or {})
    if init is not None:
        network = _build_backbone(cfg.model.backbone, backbone, view_size(cfg), init)
        cfg.model.backbone.init_cfg = _init_cfg(network, init, out / 'init')

    say('Measuring the speed of training ...')
    try:
        with only_progress():
            step = seconds_per_step(cfg, min(5.0, budget / 20) if budget else 5.0)
    except TypeError as error:
        if not cfg_options:
            raise
        raise ValueError(f'cfg_options={cfg_options} cannot be used: {error}') from error
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f'backbone={backbone!r} cannot be trained at size={view_size(cfg)} with '
            f'batch={cfg.train_dataloader.batch_size}: {error}'
        ) from error
    batch = cfg.train_dataloader.batch_size
    epoch = count // batch * step
    why = 'as you chose'
    if budget:
        # A twentieth is kept for start and checkpoints.
        epochs = int(0.95 * (budget - (clock.perf_counter() - start)) / epoch)
        why = f'what fits into {time}'
        if epochs < 1:
            raise ValueError(
                f'time={time!r} is too short: an epoch takes {_duration(epoch)} here. Allow more, '
                'or lower --size, or take a smaller --backbone'
            )
    settings += fit_to_epochs(cfg, count, epochs, init is not None, step, why)
    cfg.merge_from_dict(cfg_options or {})
    rows = {_ROWS[key]: value for key, value in (cfg_options or {}).items() if key in _ROWS}
    settings = [
        Setting(row.name, f'{rows[row.name]}', 'by cfg_options') if row.name in rows else row
        for row in settings
    ]
    duration = _duration(cfg.train_cfg.max_epochs * epoch)
    speed = f'here, at {batch / step:,.3g} images/s; --time sets a budget'
    settings.append(Setting('duration', duration, speed))
    say(f'{settings_table(settings)}\n  all of it is in {config}')
    cfg.settings = {s.name: f'{s.value}, {s.reason}' for s in settings}
    cfg.arguments = arguments
    cfg.dump(config)
    return _train(config)


def parse_time(text: str) -> float:
    """Seconds of a duration.

    Args:
        text: Such as ``'90s'``, ``'30m'``, ``'1h30m'`` or ``'2d'``.

    Returns:
        The seconds.

    Raises:
        ValueError: If it is not a duration.
    """
    parts = re.findall(r'(\d+(?:\.\d+)?)([dhms])', text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not seconds or ''.join(number + unit for number, unit in parts) != text:
        raise ValueError(f'time={text!r} is no duration: pass one such as 45s, 30m, 1h30m or 2d')
    return seconds


def _duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are two."""
    unit = next((unit for unit, length in _UNITS.items() if seconds >= 2 * length), 's')
    return f'{seconds / _UNITS[unit]:.3g} {unit}'


def _plain(name: str, value):
    """A value that a config can hold, paths being absolute."""
    if name == 'images':
        value = [value] if isinstance(value, str | Path) else value
        return [os.path.abspath(path) for path in value]
    if name in ('init', 'image_root', 'labels') and value not in (None, 'folders'):
        return os.path.abspath(value)
    return value


def _check_unchanged(config: Path, started: dict, arguments: dict) -> None:
    """Compare what is passed on resuming with what the run was started with."""
    for name, parameter in inspect.signature(pretrain).parameters.items():
        value = arguments.get(name)
        if value not in (None, [], {}, parameter.default) and value != started.get(name):
            raise ValueError(
                f'{name}={value!r} differs from {started.get(name)!r}, with which the run in '
                f'{config.parent} was started: leave it out, or start anew with another --out'
            )


def _scan(
    out: Path,
    images: Sequence[str | Path],
    labels: str | Path | None,
    image_root: str | Path | None,
    min_edge: int,
) -> Scan:
    """Scan the images and write what was found into the run's folder."""
    paths = list_images(images, image_root)
    label_of = dict(zip(paths, read_labels(labels, paths, image_root) or ()))
    say(f'{len(paths):,} images found')
    scan = scan_images(paths, min_edge)
    (out / 'images.txt').write_text(''.join(f'{path}\n' for path in scan.accepted))
    _write_csv(out / 'left_out.csv', ('path', 'reason'), scan.left_out)
    if label_of:
        rows = [(path, label_of[path]) for path in scan.accepted]
        _write_csv(out / 'labels.csv', ('path', 'label'), rows)
    left_out = f'{len(scan.left_out):,} left out, see {out / "left_out.csv"}'
    say(f'{len(scan.accepted):,} are usable, {left_out}')
    return scan


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    # Names of files need not be UTF-8.
    with open(path, 'w', newline='', errors='backslashreplace') as file:
        csv.writer(file).writerows([header, *rows])


def _build_backbone(cfg: dict, name: str, size: int, init: str | Path | None) -> nn.Module:
    """Build a backbone, try it on images, and fill it from a checkpoint if there is one."""
    with only_progress():
        try:
            network = MODELS.build(cfg)
            network.eval()  # returns nothing in mmpretrain
            with torch.no_grad():
                network(torch.zeros(1, 3, size, size))
        # What timm's models raise whose size or pooling is another.
        except (AssertionError, RuntimeError, TypeError) as error:
            raise ValueError(f'backbone={name!r} cannot be used at size={size}: {error}') from error
        if init is not None:
            initialize_backbone(network, init)
    return network


def _init_cfg(network: nn.Module, init: str | Path, folder: Path) -> dict:
    """Write the initial weights beside the run, which then needs no other file."""
    folder.mkdir(exist_ok=True)
    path = folder / 'backbone.pth'
    torch.save(dict(state_dict=network.state_dict(), meta=dict(source=str(init))), path)
    return dict(type='Pretrained', checkpoint=str(path))


def _train(config: Path) -> Path:
    """Run a config to its end, from its latest checkpoint if there is one."""
    with only_progress():
        build_runner(Config.fromfile(config)).train()
    return Path(newest_checkpoint(str(config.parent))[0])
