"""A pretraining run as it lies on the disk: its model, its settings, its log."""

import json
import os
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS

from ..backbones import read_backbone
from ..checkpoints import Stored, newest_checkpoint, write_text
from ..evaluation.encoder import Encoder
from ..models import NeighborMethod, method_of


def read_encoder(checkpoint: str | Path) -> Encoder:
    """Read a network that represents images.

    Args:
        checkpoint: Checkpoint of any origin; or the folder of a run, whose newest is taken.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it has no backbone that can be used.
    """
    path = latest_checkpoint(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint)
    init_default_scope('mmpretrain')
    stored = Stored.read(path)
    trained, cfg, method = read_backbone(stored), None, None
    with suppress(ValueError):  # of another library
        cfg = stored.config
    # Of a pretraining `backbone.pth` has the backbone alone.
    more = any(not key.startswith('backbone.') for key in stored.weights)
    if more and cfg is not None and 'model' in cfg and method_of(cfg) is not None:
        method = _build_method(stored)
    return Encoder.of(str(path), trained, cfg, method)


def _build_method(stored: Stored) -> NeighborMethod:
    """The whole model of a pretraining's checkpoint, in evaluation mode."""
    assert stored.config is not None
    settings = stored.config.model.to_dict() | dict(pretrained=None, init_cfg=None)
    settings['compile_backbone'] = False  # it would take minutes
    # The checkpoint has all weights: nothing is downloaded first.
    for key in ('pretrained', 'init_cfg', 'checkpoint_path'):
        settings['backbone'].pop(key, None)
    model = revert_sync_batchnorm(MODELS.build(settings))
    missing, _ = model.load_state_dict(stored.weights, strict=False)
    if missing:
        raise ValueError(f'{stored.path} lacks {", ".join(missing[:3])} of its own config')
    model.eval()  # returns nothing in mmpretrain
    return model


def load_run(checkpoint: str | Path) -> tuple[Config, NeighborMethod]:
    """Build the model of a checkpoint with its weights.

    Args:
        checkpoint: Checkpoint of a pretraining.

    Returns:
        The run's config, and the model in evaluation mode, on the GPU if there
        is one.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is not one.
    """
    encoder = read_encoder(checkpoint)
    if encoder.method is None:
        raise ValueError(
            f'{checkpoint} holds no method with neighbours: pass a checkpoint of pretraining'
        )
    return encoder.config, encoder.method.to('cuda' if torch.cuda.is_available() else 'cpu')


def write_config(cfg: Config, path: str | Path) -> None:
    """Write a config to be read again, whole or not at all.

    mmengine puts other values in where a text, such as a path, holds ``{{...}}``.
    """
    write_text(path, cfg.pretty_text.replace('{{', r'{\x7b'))


def relocated(cfg: Config, folder: str | Path, before: str | None = None) -> Config:
    """A run's config with the paths as they are after a folder was moved or copied.

    Args:
        cfg: The config.
        folder: The folder as it is now.
        before: As it was; by default ``work_dir``.
    """
    before, now = before or cfg.work_dir, os.path.abspath(folder)

    def moved(value):
        if isinstance(value, str) and (value == before or value.startswith(f'{before}{os.sep}')):
            return now + value[len(before) :]
        if isinstance(value, dict):
            return {key: moved(part) for key, part in value.items()}
        return type(value)(map(moved, value)) if isinstance(value, list | tuple) else value

    return Config(moved(cfg.to_dict()))


def latest_checkpoint(folder: str | Path) -> Path:
    """The newest checkpoint of a run, also after its folder was moved.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = newest_checkpoint(str(folder)).path
    if path is None:
        raise FileNotFoundError(
            f'no checkpoint in {str(folder)!r}: pass the folder of a run that has saved one'
        )
    return Path(path)


def read_log(folder: str | Path) -> list[dict[str, float]]:
    """Read the training's log lines, of all parts of a run that was resumed.

    Args:
        folder: The run's work directory.

    Returns:
        Logged values by name, for rising ``step``; where a resumed part
        repeats steps, its own lines count.

    Raises:
        FileNotFoundError: If nothing was logged.
    """
    lines: dict[int, dict] = {}
    for path in sorted(Path(folder).glob('*/vis_data/scalars.json')):
        text = path.read_text('utf-8')
        part = [line for line in map(_parse, text.splitlines()) if 'loss' in line]
        if part:
            lines = {step: line for step, line in lines.items() if step < part[0]['step']}
            lines |= {line['step']: line for line in part}
    if not lines:
        raise FileNotFoundError(
            f'no log in {str(folder)!r} (*/vis_data/scalars.json): pass the folder of a run'
        )
    return [lines[step] for step in sorted(lines)]


def _parse(line: str) -> dict:
    """The values of a line; none of one that was not written to its end."""
    with suppress(ValueError):
        return json.loads(line)
    return {}


def training_images(cfg: Config) -> tuple[list[Path], list[str] | None]:
    """The images that a run is trained on, and their labels if it was told some.

    Args:
        cfg: The run's config.

    Returns:
        Paths, and class names or ``None``.

    Raises:
        FileNotFoundError: If they are no longer where the config says.
    """
    try:
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    except (FileNotFoundError, RuntimeError) as error:
        raise FileNotFoundError(
            f"the run's training images cannot be read, pass others as --images: {error}"
        ) from error
    infos = [dataset.get_data_info(number) for number in range(len(dataset))]
    paths = [Path(info['img_path']) for info in infos]
    if any('gt_label' not in info for info in infos):
        return paths, None
    classes = dataset.metainfo.get('classes')
    names = [int(info['gt_label']) for info in infos]
    return paths, [classes[name] if classes else str(name) for name in names]
