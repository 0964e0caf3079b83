"""The backbone of a checkpoint."""

from typing import NamedTuple

from torch import nn

from ..checkpoints import Stored
from ..datasets.views import view_size
from .naming import build_backbone


class Trained(NamedTuple):
    """The backbone of a checkpoint.

    Attributes:
        cfg: Its config, without any initialisation.
        backbone: The backbone itself, in evaluation mode.
        preprocessing: ``mean``, ``std`` and ``to_rgb`` of its training, empty
            if the checkpoint does not say them.
        edge: Of the images that it was trained with, in pixels.
    """

    cfg: dict
    backbone: nn.Module
    preprocessing: dict
    edge: int


def read_backbone(stored: Stored) -> Trained:
    """The backbone of a checkpoint, by the config that is stored in it.

    Args:
        stored: Checkpoint of a training, or one that was imported.

    Raises:
        ValueError: If it has no backbone, or no config, or they do not fit.
    """
    prefix = 'backbone.'
    weights = {
        key.removeprefix(prefix): value
        for key, value in stored.weights.items()
        if key.startswith(prefix)
    }
    if not weights:
        raise ValueError(
            f'{stored.path} has no {prefix}* keys: pass a checkpoint that training saved, or make '
            'one of a foreign file by `mmsnclr import`'
        )
    full = stored.config
    if full is None:
        raise ValueError(f"{stored.path} lacks meta['cfg']: pass a checkpoint that training saved")
    cfg = full.model.backbone.to_dict()
    for key in ('_scope_', 'init_cfg', 'pretrained', 'checkpoint_path'):
        cfg.pop(key, None)
    backbone = build_backbone(cfg)
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f'{stored.path}: its backbone is not that of its own config: {error}'
        ) from error
    settings = full.model.get('data_preprocessor') or full.get('data_preprocessor') or {}
    preprocessing = {key: settings[key] for key in ('mean', 'std') if key in settings}
    if preprocessing:
        preprocessing['to_rgb'] = settings.get('to_rgb', settings.get('bgr_to_rgb', False))
    return Trained(cfg, backbone, preprocessing, view_size(full))
