"""What a pretrained model makes of a user's images."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmpretrain.registry import TRANSFORMS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..console import say, track
from ..datasets.decoding import middle, read_image
from ..datasets.loading_errors import loaded
from ..datasets.shards import cache_folder
from ..models import pooled
from .cache import MOST, files_key, key_of, recall, remember, weights_key
from .encoder import Encoder, Sight

_BATCH = 64
_MOST_WORKERS = 8


class _Images(Dataset):
    """Images as a network is to see them, the centre of each, and whether they could be read."""

    def __init__(self, paths: Sequence[Path], sight: Sight) -> None:
        self.paths, self.levels = paths, sight.levels
        steps = [
            dict(type='ResizeEdge', scale=round(sight.edge * 8 / 7), edge='short'),
            dict(type='CenterCrop', crop_size=sight.edge),
        ]
        self.transforms = [TRANSFORMS.build(step) for step in steps]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, bool]:
        """The image, ``(3, H, W)`` uint8 BGR; a black one if it cannot be read."""
        readable = True
        try:
            image = middle(read_image(self.paths[number], self.levels))
        except (FileNotFoundError, PermissionError, ValueError):
            image, readable = np.zeros((1, 1, 3), np.uint8), False
        results = dict(img=image)
        for transform in self.transforms:
            results = transform(results)
        return torch.from_numpy(results['img'].transpose(2, 0, 1).copy()), readable


class Representations(NamedTuple):
    """Representations of N images.

    Attributes:
        paths: The images.
        labels: Their class names, or ``None``.
        numbers: Which of the given images they are, ``(N,)``.
        parts: What each network of the encoder makes of them, as far as it was asked for:
            ``'features'``, ``(N, C)``, for use elsewhere; ``'keys'``, ``(N, D)``, by which
            neighbours are found; ``'projections'``, ``(N, D)``, which weigh them.
        levels: By which values of those with more than 8 bits were seen.
    """

    paths: list[str]
    labels: list[str] | None
    numbers: Tensor
    parts: dict[str, Tensor]
    levels: tuple[int, int] | None


def represent_images(
    encoder: Encoder,
    paths: Sequence[Path],
    labels: Sequence[str] | None = None,
    max_images: int | None = None,
    seed: int = 0,
    parts: Sequence[str] | None = None,
    workers: int | None = None,
) -> Representations:
    """Represent a user's images, the centre of each at the size of training.

    What was computed is kept on the disk (:func:`~..datasets.shards.cache_folder`), and computed
    again only if weights, images or their preparation have changed.

    Args:
        encoder: The network.
        paths: The images.
        labels: Their class names, or ``None``.
        max_images: If there are more, so many are drawn at random.
        seed: Seed of that.
        parts: Which of the encoder's networks represent them; all by default.
        workers: Processes that load images; by default one for each core, up to 8.

    Returns:
        Representations and labels of those that can be read; the console names the others.

    Raises:
        ValueError: If a number is too small, no image can be read, or the values are not finite.
    """
    if max_images is not None and max_images < 1:
        raise ValueError(f'max_images={max_images} must be at least 1')
    if workers is not None and workers < 0:
        raise ValueError(f'workers={workers} must be at least 0')
    if max_images is not None and len(paths) > max_images:
        chosen = sorted(random.Random(seed).sample(range(len(paths)), max_images))
        paths = [paths[number] for number in chosen]
        labels = None if labels is None else [labels[number] for number in chosen]
    found = _represent(encoder, paths, parts or tuple(encoder.networks), workers)
    readable = next(iter(found.values()))['readable']
    bad = [str(path) for path, good in zip(paths, readable) if not good]
    message = f'{len(bad)} of {len(paths)} images cannot be read'
    if len(bad) == len(paths):
        raise ValueError(f'{message}, the first {bad[0]!r}')
    if bad:
        say(f'{message} and are left out: {", ".join(bad[:5])}', err=True)
    rows = {part: torch.from_numpy(kept['rows'][readable]) for part, kept in found.items()}
    if not all(values.isfinite().all() for values in rows.values()):
        raise ValueError(f'{encoder.name} gives values that are not finite: its training diverged')
    numbers = readable.nonzero()[0].tolist()
    return Representations(
        [str(paths[number]) for number in numbers],
        None if labels is None else [labels[number] for number in numbers],
        torch.tensor(numbers, dtype=torch.long),
        rows,
        encoder.sight.levels,
    )


def features_key(encoder: Encoder, paths: Sequence[Path], part: str = 'features') -> str:
    """Name, in the cache, of what an encoder's network makes of images as they are now."""
    weights = weights_key(encoder.networks[part])
    return key_of(part, encoder.cfg, weights, encoder.sight, files_key(paths))


def _represent(
    encoder: Encoder, paths: Sequence[Path], parts: Sequence[str], workers: int | None
) -> dict[str, dict[str, np.ndarray]]:
    """For each part ``rows``, ``(N, C)``, and which images are ``readable``, from the cache or new.

    What is not in the cache is computed for all parts in one pass, and put there.
    """
    keys = {part: features_key(encoder, paths, part) for part in parts}
    recalled = {part: recall(key) for part, key in keys.items()}
    found = {part: content for part, content in recalled.items() if content is not None}
    missing = [part for part in parts if part not in found]
    if missing:
        rows, readable = _encode(encoder, paths, missing, workers)
        for part in missing:
            found[part] = dict(rows=rows[part], readable=readable)
            remember(keys[part], found[part])
        limit = f'{MOST / 2**30:.0f} GB at most'
        say(f'What was computed is kept in {cache_folder()} ({limit})', err=True)
    return found


@torch.no_grad()
def _encode(
    encoder: Encoder, paths: Sequence[Path], parts: Sequence[str], workers: int | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What some of the networks make of images, ``(N, C)`` each, and which could be read."""
    if workers is None:
        workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
    loader = DataLoader(
        _Images(paths, encoder.sight),
        _BATCH,
        num_workers=min(workers, len(paths) // _BATCH),  # a process takes longer to start
        worker_init_fn=_start_worker,
    )
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    networks = {part: encoder.networks[part].to(device) for part in parts}
    mean, std = (
        torch.tensor(x, device=device).view(-1, 1, 1)
        for x in (encoder.sight.mean, encoder.sight.std)
    )
    rows: dict[str, list[Tensor]] = {part: [] for part in parts}
    readable: list[Tensor] = []
    for images, good in track(loaded(loader), 'Representing images', len(loader)):
        images = images.to(device)
        images = images.flip(1) if encoder.sight.to_rgb else images
        images = (images.float() - mean) / std
        for part, network in networks.items():
            rows[part].append(pooled(network(images)).float().cpu())
        readable.append(good)
    for network in networks.values():
        network.cpu()  # others are to come
    return {part: torch.cat(x).numpy() for part, x in rows.items()}, torch.cat(readable).numpy()


def _start_worker(number: int) -> None:
    """Keep OpenCV's threads out of a process that was forked."""
    cv2.setNumThreads(0)
