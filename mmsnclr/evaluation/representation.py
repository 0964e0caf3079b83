"""What a pretrained model makes of a user's images."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, default_collate
from mmpretrain.registry import TRANSFORMS
from torch import Tensor
from torch.utils.data import DataLoader

from ..console import say
from ..datasets.decoding import middle, read_image
from ..datasets.views import view_levels, view_size
from ..models import NeighborMethod, pooled
from .features import extract_features


class _Images(BaseDataset):
    """Images as a network is to see them: the centre of each.

    Attributes:
        unreadable: Numbers of the images that could not be read so far.
    """

    def __init__(self, paths: Sequence[Path], cfg: Config) -> None:
        self.paths = paths
        self.levels = view_levels(cfg)
        self.unreadable = []
        size = view_size(cfg)
        pipeline = [
            dict(type='ResizeEdge', scale=round(size * 8 / 7), edge='short'),
            dict(type='CenterCrop', crop_size=size),
            dict(type='PackInputs'),
        ]
        super().__init__(pipeline=[TRANSFORMS.build(step) for step in pipeline])

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=str(path)) for path in self.paths]

    def prepare_data(self, idx: int) -> dict:
        """What the pipeline packs; of an unreadable image, a black one."""
        info = self.get_data_info(idx)
        try:
            image = middle(read_image(info['img_path'], self.levels))
        except (OSError, ValueError):
            self.unreadable.append(idx)
            image = np.zeros((1, 1, 3), np.uint8)
        return self.pipeline(info | dict(img=image))


class Representations(NamedTuple):
    """Features of N images.

    Attributes:
        paths: The images.
        labels: Their class names, or ``None``.
        features: The backbone's, ``(N, C)``, for use elsewhere.
        keys: The momentum branch's, ``(N, D)``, by which neighbours are found.
        projections: The online branch's, ``(N, D)``, which weigh them.
    """

    paths: list[str]
    labels: list[str] | None
    features: Tensor
    keys: Tensor
    projections: Tensor


def represent_images(
    cfg: Config,
    model: NeighborMethod,
    paths: Sequence[Path],
    labels: Sequence[str] | None = None,
    max_images: int | None = None,
    seed: int = 0,
) -> Representations:
    """Represent a user's images, the centre of each at the size of training.

    Args:
        cfg: The config that the model was trained with.
        model: The model.
        paths: The images.
        labels: Their class names, or ``None``.
        max_images: If there are more, so many are drawn at random.
        seed: Seed of that.

    Returns:
        Features and labels of those that can be read; the console names the others.

    Raises:
        ValueError: If none can be read or is to be.
    """
    if max_images is not None and max_images < 1:
        raise ValueError(f'max_images={max_images} must be at least 1')
    if max_images is not None and len(paths) > max_images:
        chosen = sorted(random.Random(seed).sample(range(len(paths)), max_images))
        paths = [paths[number] for number in chosen]
        labels = None if labels is None else [labels[number] for number in chosen]
    dataset = _Images(paths, cfg)
    loader = DataLoader(dataset, batch_size=64, collate_fn=default_collate)

    def encode(images: Tensor) -> tuple[Tensor]:
        outputs = model.backbone(images)
        parts = (model.momentum_encoder(images)[0], model.neck(outputs)[0], pooled(outputs))
        return (torch.cat([part.float() for part in parts], dim=1),)

    found, _ = extract_features(model, loader, encode)
    bad = [str(paths[number]) for number in dataset.unreadable]
    message = f'{len(bad)} of {len(paths)} images cannot be read'
    if len(bad) == len(paths):
        raise ValueError(f'{message}, the first {bad[0]!r}')
    if bad:
        say(f'{message} and are left out: {", ".join(bad[:5])}', err=True)
    good = sorted(set(range(len(paths))) - set(dataset.unreadable))
    dim = model.queue.dim
    keys, projections, features = found[good].split([dim, dim, found.size(1) - 2 * dim], dim=1)
    return Representations(
        [str(paths[number]) for number in good],
        None if labels is None else [labels[number] for number in good],
        features,
        keys,
        projections,
    )
