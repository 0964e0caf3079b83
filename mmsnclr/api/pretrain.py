"""Pretraining on a user's own images."""

import copy
import inspect
import os
import re
import shlex
import time as clock
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..backbones import initialize_backbone
from ..checkpoints import (
    BACKBONE,
    Stored,
    at_hand,
    newest_checkpoint,
    refuse_inputs,
    save_whole,
    sole_writer,
    write_backbone,
)
from ..console import Setting, check_least, duration, parse_time, say, settings_table
from ..datasets.scan import LISTS, Scan, scan_into
from ..datasets.views import VIEW_KINDS, view_size
from ..engine import build_runner
from ..engine.cost import seconds_per_step
from ..engine.launch import (
    count_cores,
    count_processes,
    launch,
    set_processes,
    share_of_batch,
    threads_of_a_process,
)
from ..engine.optim import set_amp
from ..engine.run import latest_checkpoint, relocated, write_config
from ..models import method_of
from ..parents import only_progress
from ..recipes.overriding import DRAFT_IMAGES, flattened, overridden, try_overrides
from ..recipes.pretraining import (
    check_size,
    fit_to_epochs,
    fit_to_images,
    load_recipe,
    patch_edge,
    set_size,
    try_backbone,
)

_WRITTEN = (*LISTS, BACKBONE, f'init/{BACKBONE}', 'epoch_*.pth')
# What is free on resuming, as arguments and as settings.
_MACHINE = ('workers', 'amp', 'gpus')
_MACHINES_KEYS = re.compile(
    r'env_cfg\b|model\.compile_backbone$'
    r'|train_dataloader\.(num_workers|persistent_workers|pin_memory|prefetch_factor)$'
)
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


@sole_writer
def pretrain(
    images: Sequence[str | Path],
    out: str | Path,
    backbone: str = 'r50',
    init: str | Path | None = None,
    epochs: int | None = None,
    time: str | None = None,
    batch: int | None = None,
    size: int | None = None,
    views: str | None = None,
    workers: int | None = None,
    labels: str | Path | None = None,
    image_root: str | Path | None = None,
    min_edge: int = 32,
    amp: str | None = None,
    gpus: int | None = None,
    cfg_options: dict | None = None,
    resume: bool = False,
) -> Path:
    """Pretrain a backbone on images without labels.

    Scans the images, derives settings from their number, prints these, writes
    them as ``out/config.py`` and trains. ``tools/train.py out/config.py``
    continues the run or, with another ``--work-dir``, repeats it.

    Args:
        images: Folders, tars, text files with paths, csv files with a column ``path``, COCO json
            files or image files.
        out: Folder for config, lists, logs and checkpoints.
        backbone: ``'r18'``, ``'r34'``, ``'r50'``, ``'r101'``, ``'vit-s'``,
            ``'vit-b'`` or the name of a timm model.
        init: Checkpoint to start from, of torchvision, timm, mmpretrain or a run.
        epochs: How often each image is seen.
        time: Budget such as ``'30m'`` or ``'1h30m'`` from which epochs follow.
        batch: Images of a step, which the processes share.
        size: Edge of a view, in pixels.
        views: How strongly views differ: ``'strong'``, BYOL's, for photographs; ``'gray'``,
            which leaves colours alone and solarises nothing, the default for images without
            colours; ``'weak'``, crop and flip alone.
        workers: Processes that load images, for each that trains.
        labels: ``'folders'``, where the folder names are the labels, ``'cls'``, where tars have
            ``.cls`` files, or a csv file with the columns ``path`` and ``label``. For
            evaluation in the log only.
        image_root: Folder from which paths in files are meant; by default the file's.
        min_edge: Images with a shorter edge are left out, in pixels.
        amp: Mixed precision: ``'auto'`` (the default) is bfloat16 where the device has it
            and else float16; ``'fp16'``, ``'bf16'`` or ``'off'``.
        gpus: How many processes train, by default one for each visible GPU, or one on a CPU. A
            script that starts several keeps its doings behind ``if __name__ == '__main__'``.
        cfg_options: Settings of the config to override: ``{'model.head.neighbors': 10}``.
        resume: Whether to continue the run in ``out``; other arguments are
            then those of the run, but for what concerns the machine: ``workers``,
            ``amp``, ``gpus`` and such ``cfg_options``, for this part of it alone.

    Returns:
        The last checkpoint; ``backbone.pth`` beside it holds its backbone alone.

    Raises:
        FileNotFoundError: If an image, a checkpoint or the run to resume is missing.
        ValueError: If an argument is not usable, the images are too few, or
            ``out`` holds a run already.
        ChildProcessError: If one of several processes was killed.
    """
    arguments = {k: _plain(k, v) for k, v in locals().items() if k not in ('out', 'resume')}
    start, out = clock.perf_counter(), Path(os.path.abspath(out))
    init_default_scope('mmpretrain')
    if _is_to_go_on(out, arguments, resume):
        return _go_on(out, arguments, resume)
    processes = _check_arguments(out, arguments)
    stored = None if init is None else Stored.read(init)
    cfg = load_recipe(backbone)
    set_amp(cfg, amp)
    # What does not fit is refused before the images are read, which may take hours.
    patch = _try_recipe(cfg, arguments, stored)
    _try_options(cfg, out, arguments)
    scan = scan_into(out, images, labels, image_root, min_edge)
    settings = fit_to_images(
        cfg,
        len(scan.accepted),
        scan.median_edge,
        batch,
        size,
        processes,
        views,
        scan.colored,
        patch,
    )
    _set_run(cfg, out, arguments, scan)
    initial = [] if stored is None else [_initial_weights(cfg, arguments, stored, out / 'init')]
    settings += _fit_length(cfg, len(scan.accepted), arguments, start)
    del scan  # objects for each image, which processes that load images would come to copy
    _write_config(cfg, out, settings, arguments)
    with at_hand(*initial):
        return _train(out, dict(gpus=gpus))


def _is_to_go_on(out: Path, arguments: dict, resume: bool) -> bool:
    """Whether there is a run that is not to be started again, for something would be lost."""
    config = out / 'config.py'
    if not config.exists():
        return False
    cfg = Config.fromfile(config)
    if 'arguments' not in cfg or method_of(cfg) is None:  # as of a classifier
        raise ValueError(f'{config} is not of a pretraining: choose another --out')
    newest, damaged, _ = newest_checkpoint(str(out))
    return bool(resume or newest or damaged or not arguments['images'])


def _go_on(out: Path, arguments: dict, resume: bool) -> Path:
    """Continue the run in a folder, also after the folder was moved or copied."""
    config = out / 'config.py'
    if not resume:
        raise ValueError(
            f'{out} holds a run already: pass --resume to continue it, or another --out'
        )
    cfg = Config.fromfile(config)
    _check_unchanged(config, cfg.arguments, arguments)
    if cfg.work_dir != str(out):
        cfg = relocated(cfg, out)
        write_config(cfg, config)
    newest = newest_checkpoint(str(out)).path
    last = out / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    if newest == str(last):
        say(f'the run in {out} is at its end already')
        backbone = out / BACKBONE
        if not backbone.exists():  # a run of before it was written
            write_backbone(Stored.read(last).content, last.name, str(backbone))
        return last
    anew = f'no checkpoint in {out} yet: starting from the beginning'
    say(anew if newest is None else f'continuing from {newest}')
    return _train(out, arguments)


def _check_arguments(out: Path, arguments: dict) -> int:
    """Refuse what is not usable whatever the images are; how many processes train."""
    epochs, time = arguments['epochs'], arguments['time']
    if not arguments['images']:
        raise ValueError(f'there is no run to continue in {out}: pass images')
    if epochs is not None and time is not None:
        raise ValueError(f'epochs={epochs} and time={time!r} say the same: pass one of them')
    check_least(arguments, epochs=1, batch=2, size=16, workers=0)
    if arguments['views'] not in (None, *VIEW_KINDS):
        raise ValueError(f'views={arguments["views"]!r} must be one of {", ".join(VIEW_KINDS)}')
    if time is not None:
        parse_time(time)
    for key, name in _ARGUMENTS.items():
        if key in (arguments['cfg_options'] or {}):
            raise ValueError(f'cfg_options: pass {name} instead of {key}, on which others depend')
    refuse_inputs(out, _WRITTEN, arguments)
    processes = count_processes(arguments['gpus'])
    share_of_batch(arguments['batch'] or 0, processes)
    return processes


def _try_recipe(cfg: Config, arguments: dict, stored: Stored | None) -> int:
    """Try the backbone before the images are known, which may take hours; its patches' edge."""
    draft, size = copy.deepcopy(cfg), arguments['size'] or 224
    set_size(draft.model.backbone, size)
    draft = overridden(draft, arguments['cfg_options'])
    network = try_backbone(draft.model.backbone, arguments['backbone'], size)
    if arguments['size'] is not None:
        check_size(network, size)
    if stored is not None:
        initialize_backbone(network, stored)
    return patch_edge(network)


def _try_options(cfg: Config, out: Path, arguments: dict) -> None:
    """Train on nothing by what the user overrides, as far as is known before the images are."""
    if not arguments['cfg_options']:
        return
    draft = copy.deepcopy(cfg)
    fit_to_images(draft, DRAFT_IMAGES, 224, size=arguments['size'])
    fit_to_epochs(draft, DRAFT_IMAGES, arguments['epochs'] or 10)
    _set_run(draft, out, arguments | dict(labels=None), Scan())
    try_overrides(draft, arguments['cfg_options'])


def _set_run(cfg: Config, out: Path, arguments: dict, scan: Scan) -> None:
    """Set where the run lies, and what of it depends on the machine."""
    workers = arguments['workers']
    if workers is None:
        workers = min(8, count_cores(count_processes(arguments['gpus'])))
    _set_workers(cfg, workers)
    cfg.train_dataloader.dataset.ann_file = str(out / 'images.txt')
    if scan.levels:
        cfg.train_dataloader.dataset.pipeline[0].levels = scan.levels
    if arguments['labels'] is not None:
        cfg.train_dataloader.dataset.labels = str(out / 'labels.csv')
    # Resumed if there is something to resume from, as after an interruption.
    cfg.work_dir, cfg.resume = str(out), True
    cfg.sync_bn = 'torch'  # on GPUs, also of timm's models, whose layers have no norm_cfg
    cfg.default_hooks.preemption = dict(type='PreemptionHook', interrupt=True)


def _set_workers(cfg: Config, workers: int) -> None:
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)


def _initial_weights(cfg: Config, arguments: dict, stored: Stored, folder: Path) -> Stored:
    """Write the initial weights beside the run, which then needs no other file."""
    final = overridden(cfg, arguments['cfg_options'])
    network = try_backbone(final.model.backbone, arguments['backbone'], view_size(final))
    initialize_backbone(network, stored)
    content = dict(state_dict=network.state_dict(), meta=dict(source=str(stored.path)))
    path = folder / BACKBONE
    folder.mkdir(exist_ok=True)
    save_whole(content, path)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    return Stored(path, content)


def _measure_step(cfg: Config, arguments: dict, budget: float | None) -> float:
    """Seconds of a training step of one process here, with its share of the batch."""
    say('Measuring the speed of training ...')
    processes = count_processes(arguments['gpus'])
    cfg.train_dataloader.batch_size //= processes
    try:
        with only_progress(), threads_of_a_process(processes):
            return seconds_per_step(cfg, min(5.0, budget / 20) if budget else 5.0)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f'backbone={arguments["backbone"]!r} cannot be trained at size={view_size(cfg)} with '
            f'{cfg.train_dataloader.batch_size} images of a process: {error}'
        ) from error


def _fit_length(cfg: Config, images: int, arguments: dict, start: float) -> list[Setting]:
    """Choose how long is trained, by how long a step takes, and what follows from that."""
    time, epochs, why = arguments['time'], arguments['epochs'], 'as you chose'
    budget = None if time is None else parse_time(time)
    step = _measure_step(overridden(cfg, arguments['cfg_options']), arguments, budget)
    batch = cfg.train_dataloader.batch_size
    epoch_seconds = images // batch * step
    if budget:
        # A twentieth is kept for start and checkpoints.
        epochs = int(0.95 * (budget - (clock.perf_counter() - start)) / epoch_seconds)
        why = f'what fits into {time}'
        if epochs < 1:
            raise ValueError(
                f'time={time!r} is too short: an epoch takes {duration(epoch_seconds)} here. '
                'Allow more, or lower --size, or take a smaller --backbone'
            )
    settings = fit_to_epochs(cfg, images, epochs, arguments['init'] is not None, step, why)
    cfg.merge_from_dict(arguments['cfg_options'] or {})
    length = duration(cfg.train_cfg.max_epochs * epoch_seconds)
    speed = f'here, at {batch / step:,.3g} images/s; --time sets a budget'
    if count_processes(arguments['gpus']) > 1:
        speed += '; without what processes exchange'
    return [*settings, Setting('duration', length, speed)]


def _write_config(cfg: Config, out: Path, settings: list[Setting], arguments: dict) -> None:
    """Show the settings, as the user's options have changed them, and write all of it."""
    options = arguments['cfg_options'] or {}
    rows = {_ROWS[key]: value for key, value in options.items() if key in _ROWS}
    settings = [
        Setting(row.name, f'{rows[row.name]}', 'by cfg_options') if row.name in rows else row
        for row in settings
    ]
    config = out / 'config.py'
    say(f'{settings_table(settings)}\n  all of it is in {config}')
    processes = count_processes(arguments['gpus'])
    if processes > 1 and cfg.train_dataloader.batch_size % (2 * processes) == 0:
        say(
            '  on 2 such machines, each with its NODE_RANK: NNODES=2 NODE_RANK=0 MASTER_ADDR=FIRST '
            f'tools/dist_train.sh {shlex.quote(str(config))} {2 * processes}'
        )

    cfg.settings = {s.name: f'{s.value}, {s.reason}' for s in settings}
    cfg.arguments = arguments
    write_config(cfg, config)


def _plain(name: str, value: Any) -> Any:
    """A value that a config can hold, paths being absolute."""
    if name == 'images':
        value = [value] if isinstance(value, str | Path) else value
        return [os.path.abspath(path) for path in value]
    if name in ('init', 'image_root', 'labels') and value not in (None, 'folders', 'cls'):
        return os.path.abspath(value)
    if name == 'cfg_options' and value is not None:
        return flattened(value)
    return value


def _check_unchanged(config: Path, started: dict, arguments: dict) -> None:
    """Compare what is passed on resuming with what the run was started with."""
    for name, parameter in inspect.signature(pretrain).parameters.items():
        value, before = arguments.get(name), started.get(name)
        if name == 'cfg_options':
            value, before = (_of_the_run(flattened(options)) for options in (value, before))
        if name in _MACHINE or value in (None, [], {}, parameter.default) or value == before:
            continue
        raise ValueError(
            f'{name}={value!r} differs from {before!r}, with which the run in {config.parent} was '
            'started: leave it out, or start anew with another --out'
        )


def _of_the_run(options: dict) -> dict:
    """Those of the user's options that do not concern the machine alone."""
    return {key: value for key, value in options.items() if not _MACHINES_KEYS.match(key)}


def _train(out: Path, arguments: dict) -> Path:
    """Run a folder's config to its end, from the latest checkpoint if there is one.

    What ``arguments`` say of the machine holds for now, and is not written down.
    """
    cfg = Config.fromfile(out / 'config.py')
    if arguments.get('workers') is not None:
        _set_workers(cfg, arguments['workers'])
    if arguments.get('amp') is not None:
        set_amp(cfg, arguments['amp'])
    options = arguments.get('cfg_options') or {}
    cfg.merge_from_dict({k: v for k, v in options.items() if k not in _of_the_run(options)})
    processes = count_processes(arguments['gpus'])
    set_processes(cfg, processes)
    launch(processes, _run, cfg)
    return latest_checkpoint(out)


def _run(cfg: Config) -> None:
    with only_progress():
        build_runner(cfg).train()
