"""From which checkpoint training can go on."""

import os
import zlib
from contextlib import suppress
from glob import escape, glob
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

from mmengine.config import Config
from torch import nn

from ..version import __version__
from .reading import Stored, load_checkpoint
from .writing import BACKBONE, TEMPORARY, rank_file

_PROGRESS = ('epoch', 'iter')


class Choice(NamedTuple):
    """From which checkpoint a run can go on.

    Attributes:
        path: The file, or ``None`` if there is none.
        damaged: Checkpoints that cannot be gone on from or not even read, each with the reason.
        foreign: Files that are none of a training, such as weights alone.
    """

    path: str | None
    damaged: dict[str, str]
    foreign: list[str]


def newest_checkpoint(work_dir: str, run_id: str | None = None) -> Choice:
    """The newest checkpoint from which training can go on.

    Newest is what was saved last, whatever its name says.

    Args:
        work_dir: Folder of the run.
        run_id: Only those of this run, as :class:`ResumableRunner` names it.
    """
    folder = str(work_dir)
    choice = _newest_in(folder, run_id)
    if set(glob(f'{escape(folder)}/*.pth*')) <= set(choice.foreign):
        # mmengine's record of a run whose checkpoints lie elsewhere, as `out_dir` says.
        with suppress(OSError, UnicodeDecodeError):
            record = Path(folder, 'last_checkpoint').read_text('utf-8')
            elsewhere = _newest_in(os.path.dirname(record.strip()) or folder, run_id)
            return elsewhere._replace(foreign=choice.foreign + elsewhere.foreign)
    return choice


def _newest_in(folder: str, run_id: str | None) -> Choice:
    found, damaged, foreign = [], {}, []
    for path in glob(f'{escape(folder)}/*.pth{TEMPORARY}'):
        damaged[path] = 'half-written'
    for path in glob(f'{escape(folder)}/*.pth'):
        name = os.path.basename(path)
        if name.startswith('best_') or name == BACKBONE:
            continue
        try:
            checkpoint = load_checkpoint(path, mmap=True)
            if not _is_of_training(checkpoint):
                foreign.append(path)
                continue
            _check_parts(checkpoint)
            _check_rank_files(path, checkpoint['meta'])
        except (OSError, RuntimeError, ValueError) as error:
            damaged[path] = str(error)
        else:
            meta = checkpoint['meta']
            if run_id is None or meta.get('run_id') == run_id:
                saved = meta.get('saved', os.path.getmtime(path))
                found.append((saved, meta['iter'], path))
    for *_, path in sorted(found, reverse=True):
        try:
            check_bytes(path)
        except ValueError as error:
            damaged[path] = str(error)
        else:
            return Choice(path, damaged, foreign)
    return Choice(None, damaged, foreign)


def check_bytes(path: str) -> None:
    """Check a checkpoint against its checksums, which torch does not look at.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        damaged = error
    if damaged is not None:
        raise ValueError(f'{path} is damaged: {damaged}')


def _is_of_training(checkpoint: Any) -> bool:
    """Whether a file holds a training of mmengine's or, though damaged, part of one."""
    names = checkpoint.keys() if isinstance(checkpoint, dict) else set()
    return 'message_hub' in names or {'meta', 'optimizer'} <= names


def _check_parts(checkpoint: dict) -> None:
    if not isinstance(checkpoint, dict):
        raise ValueError('not a training checkpoint')
    wanted = ('meta', 'state_dict', 'message_hub', 'optimizer')
    missing = [name for name in wanted if name not in checkpoint]
    if missing:
        raise ValueError(f'not a training checkpoint, for it lacks {", ".join(missing)}')
    meta = checkpoint['meta']
    if not isinstance(meta, dict) or not all(isinstance(meta.get(x), int) for x in _PROGRESS):
        raise ValueError('not a training checkpoint, for it does not say how far training was')


def _check_rank_files(path: str, meta: dict) -> None:
    """Check that the sets are there which differ between ranks."""
    names = [rank_file(path, rank) for rank in range(meta.get('rank_files', 0))]
    missing = [name for name in names if not os.path.isfile(name)]
    if missing:
        raise ValueError(f'its candidate set {missing[0]} is missing')


def check_resumable(path: str, checkpoint: dict, model: nn.Module, config: Config) -> None:
    """Check that training can go on from a checkpoint, where mmengine only warns.

    Args:
        path: The checkpoint's file, for the messages.
        checkpoint: What :func:`load_checkpoint` returned.
        model: The model to be trained on.
        config: The config of the run.

    Raises:
        ValueError: If the checkpoint is partial or of another model or
            optimiser; names both values.
    """
    try:
        _check_parts(checkpoint)
    except ValueError as error:
        raise ValueError(
            f'cannot resume from {path}: it is {error}. To start from its weights set load_from '
            'instead of resume'
        ) from error
    meta, stored = checkpoint['meta'], checkpoint['state_dict']
    if 'config' in meta:
        raise ValueError(f"cannot resume from {path}: mmengine would run its meta['config']")
    differences = []
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    stored = {name.removeprefix('module.'): tuple(value.shape) for name, value in stored.items()}
    for name in sorted(shapes.keys() | stored.keys()):
        if shapes.get(name) != stored.get(name):
            there, here = (x.get(name, 'missing') for x in (stored, shapes))
            differences.append(f'{name} is {there} in the checkpoint, {here} in the model')
    before = Stored(Path(path), checkpoint).config
    if before is not None:
        there, here = (
            ((x.get('optim_wrapper') or {}).get('optimizer') or {}).get('type')
            for x in (before, config)
        )
        if there != here:
            differences.append(f'the optimiser was {there}, the config says {here}')
        if _newly_frozen(before, config, model):
            differences.append(
                'the patch embedding was trained, model.frozen_patch_embed=True freezes it (to go '
                'on as before: --cfg-options model.frozen_patch_embed=False)'
            )
    if differences:
        more = f', and {len(differences) - 3} more' if len(differences) > 3 else ''
        writer = meta.get('mmsnclr_version', 'another program')
        raise ValueError(
            f'cannot resume from {path} (of mmsnclr {writer}; this is {__version__}): '
            f'{"; ".join(differences[:3])}{more}. Use the config it was trained with'
        )


def _newly_frozen(before: Config, config: Config, model: nn.Module) -> bool:
    """Whether a ViT's patch embedding, which was trained, is frozen by the config."""
    old, new = (x.get('model') or {} for x in (before, config))
    if not new.get('frozen_patch_embed') or old.get('frozen_patch_embed'):
        return False
    if (old.get('backbone') or {}).get('stop_grad_conv1'):  # MoCoV3ViT's own setting
        return False
    parameters = model.get_submodule('backbone').named_parameters()
    return any('patch_embed' in name and not p.requires_grad for name, p in parameters)
