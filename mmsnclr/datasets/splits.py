"""Labelled images, parted into those that are learned from and those that are tested on."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..console import say
from .listing import list_images, read_labels

_SHARE = 0.2
_TRAIN, _VAL, _TEST = {'train', 'training'}, {'val', 'valid', 'validation'}, {'test'}


class Split(NamedTuple):
    """Labelled images in two parts.

    Attributes:
        paths: The images.
        labels: The class of each.
        tested: Whether each is tested on, ``(N,)`` bool; the others are learned from.
    """

    paths: list[Path]
    labels: list[str]
    tested: np.ndarray


def read_split(
    images: str | Path,
    labels: str | Path,
    val: str | Path | None = None,
    image_root: str | Path | None = None,
    seed: int = 0,
) -> Split:
    """Read labelled images in two parts, and say how they were parted.

    Args:
        images: Folder, text file with paths or COCO json file. A folder with ``train`` and
            ``val`` (or ``test``) in it is parted by these.
        labels: ``'folders'`` or a csv file, see :func:`~.listing.read_labels`.
        val: The images to test on, if they are elsewhere, or a part of ``images``. By default,
            and if there are no such folders, a fifth of each class is drawn.
        image_root: Folder from which paths in text, json and csv files are meant.
        seed: Seed of the draw.

    Raises:
        FileNotFoundError: If images or labels are not there.
        ValueError: If labels are missing, the images are of one class, or a part is empty or has
            a class that the other has not.
    """
    paths = list_images(images, image_root)
    if val is None:
        names = read_labels(labels, paths, image_root)
        given = _by_folder(Path(images), paths)
        if given is None:
            tested = draw_part(names, _SHARE, seed)
            how = f'No --val: {tested.sum():,} of {len(paths):,} images were drawn (seed {seed})'
        else:
            used = [number for number, part in enumerate(given) if part is not None]
            paths, names = ([part[number] for number in used] for part in (paths, names))
            tested = np.array([given[number] for number in used])
            how = f'{tested.sum():,} images of {images} lie in a folder of their own'
    else:
        others = list_images(val, image_root)
        apart = set(others)
        learned = [path for path in paths if path not in apart]
        names = read_labels(labels, learned, image_root) if learned else []
        names += read_labels(labels, others, image_root)
        tested = np.arange(len(names)) >= len(learned)
        how = f'{tested.sum():,} images are those of --val'
        if len(learned) < len(paths):
            how += f', {len(paths) - len(learned):,} of which are in {images} too'
        paths = learned + others
    _check(names, tested)
    say(f'{how}, to test on; {(~tested).sum():,} others are learned from')
    return Split(paths, names, tested)


def draw_part(labels: Sequence[object], share: float, seed: int) -> np.ndarray:
    """Draw a share of each class, at least one and not all of its images.

    Args:
        labels: The class of each image; one alone of its class is not drawn.
        share: What is drawn.
        seed: Seed of the draw.

    Returns:
        Whether each is drawn, ``(N,)`` bool.
    """
    classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
    drawn, random = np.zeros(len(numbers), bool), np.random.default_rng(seed)
    for number in range(len(classes)):
        members = random.permutation((numbers == number).nonzero()[0])
        count = max(1, round(share * len(members)))
        drawn[members[: min(count, len(members) - 1)]] = True
    return drawn


def _by_folder(folder: Path, paths: Sequence[Path]) -> list[bool | None] | None:
    """Whether each image of a folder is tested on, by the folder in it where it lies.

    ``None`` for one that is not looked at, or if the folder has not both parts.
    """
    if not folder.is_dir():
        return None
    root = os.path.abspath(folder)
    first = [os.path.relpath(path, root).split(os.sep)[0].lower() for path in paths]
    there = set(first)
    held_out = next((names for names in (_VAL, _TEST) if names & there), set())
    if not (_TRAIN & there and held_out and there <= _TRAIN | _VAL | _TEST):
        return None
    aside = [name for name in first if name not in _TRAIN | held_out]
    if aside:
        say(f'{len(aside):,} images of {folder / "test"} are not looked at: val is there')
    return [True if name in held_out else False if name in _TRAIN else None for name in first]


def _check(labels: Sequence[str], tested: np.ndarray) -> None:
    """Refuse a split by which nothing can be measured."""
    learned, seen = ({x for x, y in zip(labels, tested) if y == part} for part in (False, True))
    if len(learned | seen) < 2:
        raise ValueError(
            f'all images are of one class, {labels[0]!r}: there is nothing to tell apart'
        )
    if not learned or not seen:
        part = 'test on' if learned else 'learn from'
        raise ValueError(f'no image is left to {part}: pass other images, or --val')
    unknown = sorted(seen - learned)
    if unknown:
        raise ValueError(
            f'class {unknown[0]!r} of the images to test on is not among those to learn from'
            + (f', nor are {len(unknown) - 1} others' if unknown[1:] else '')
            + ': name the classes alike'
        )
