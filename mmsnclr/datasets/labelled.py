"""Labelled images, parted into those that are learned from and those that are validated on."""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..console import say
from .listing import list_images, read_labels, unlinked
from .parts import part_named
from .scan import DUPLICATE, Scan, scan_listed
from .shards import extracted_path, is_shard

_VAL_SHARE = 0.2


class LabelledImages(NamedTuple):
    """Usable images and their classes.

    Attributes:
        train: Class of each image to learn from.
        val: Class of each image to validate on.
        scan: What was found of all of them.
    """

    train: dict[Path, str]
    val: dict[Path, str]
    scan: Scan

    @property
    def classes(self) -> list[str]:
        """The classes, sorted."""
        return sorted(set(self.train.values()))


def list_labelled(
    images: str | Path,
    labels: str | Path | None = None,
    val: str | Path | None = None,
    image_root: str | Path | None = None,
) -> tuple[dict[Path, str], set[Path] | None]:
    """List labelled images, and which of them are to validate on.

    Args:
        images: Folder, tar, text or COCO json file, or a csv with the columns ``path`` and
            ``label``. A folder with ``train`` and ``val`` (or ``test``) in it, as folders or tars,
            is parted by these.
        labels: As for :func:`~.listing.read_labels`; by default those of a csv, or else the
            names of folders.
        val: The images to validate on, likewise, if they are elsewhere or a part of ``images``, of
            which then ``train`` alone is learned from.
        image_root: Folder from which paths in text, json and csv files are meant.

    Returns:
        The class of each image, and those to validate on; ``None`` if nothing tells.

    Raises:
        FileNotFoundError: If images or labels are not there.
        ValueError: If labels are missing.
    """
    paths = list_images(images, image_root)
    source = labels or _own_labels(images) or 'folders'
    if val is None:
        classes = dict(zip(paths, read_labels(source, paths, image_root)))
        return _part_by_folder(Path(images), classes)
    held_out = list_images(val, image_root)
    learned = _to_learn_from(images, paths, held_out)
    classes = dict(zip(learned, read_labels(source, learned, image_root))) if learned else {}
    source = labels or _own_labels(val) or source
    names = _known_folders(val, held_out, set(classes.values())) if source == 'folders' else None
    classes |= zip(held_out, names or read_labels(source, held_out, image_root))
    return classes, set(held_out)


def _to_learn_from(images: str | Path, paths: list[Path], held_out: list[Path]) -> list[Path]:
    """Images that are not held out, nor in parts beside train and one that is; says which are."""
    known = {real for _, real in unlinked(held_out)}
    learned = [path for path, (_, real) in zip(paths, unlinked(paths)) if real not in known]
    if len(learned) == len(paths):
        return learned
    count = len(paths) - len(learned)
    say(f'{count:,} images of {images} are those of --val: they are not learned from')
    first = _first_folders(Path(images), paths)
    val = {first[path] for path in first.keys() - set(learned)}
    are_parts = {part_named(name) for name in val} <= {'val', 'test'}
    if not are_parts or 'train' not in map(part_named, first.values()):
        return learned
    return _without_other_parts(Path(images), {path: first[path] for path in learned}, val)


def _known_folders(source: str | Path, paths: Iterable[Path], known: set[str]) -> list[str] | None:
    """The class that a folder of each image is called, if one alone is for every image.

    Folders that differ tell no classes where all images are of one. Looked at are a folder or tar
    to validate on and what is in it.
    """
    if not (Path(source).is_dir() or is_shard(str(source))):
        return None
    root = os.path.dirname(os.path.abspath(source))
    found: list[str] = []
    for path in paths:
        folders = os.path.relpath(extracted_path(str(path)), root).split(os.sep)[:-1]
        names = known & {folder.strip() for folder in folders}
        if len(names) != 1:
            return None
        found += names
    return found


def _own_labels(images: str | Path) -> str | Path | None:
    """Where the labels of images are if nothing else is said; ``None`` if they have none."""
    if Path(images).is_dir():
        return 'folders'
    return images if Path(images).suffix.lower() == '.csv' else None


def _part_by_folder(
    folder: Path, classes: dict[Path, str]
) -> tuple[dict[Path, str], set[Path] | None]:
    """Part images by the folders or tars in one; without those that are in neither part."""
    first = _first_folders(folder, classes)
    there = set(map(part_named, first.values()))
    held_out = next((part for part in ('val', 'test') if part in there), None)
    if 'train' not in there or held_out is None or None in there:
        return classes, None
    val = {name for name in first.values() if part_named(name) == held_out}
    parted = _without_other_parts(folder, first, val)
    return {path: classes[path] for path in parted}, {path for path in parted if first[path] in val}


def _without_other_parts(folder: Path, first: dict[Path, str], val: set[str]) -> list[Path]:
    """Images that lie in no part to validate or test on but these; says which do."""
    others = {name for name in first.values() if part_named(name) in ('val', 'test')} - val
    kept = [path for path, name in first.items() if name not in others]
    if others:
        places = ', '.join(str(folder / name) for name in sorted(others))
        instead = ', '.join(sorted(val))
        count = len(first) - len(kept)
        say(f'{count:,} images of {places} are not looked at: {instead} is there to validate on')
    return kept


def _first_folders(folder: Path, paths: Iterable[Path]) -> dict[Path, str]:
    """What each image lies in, a folder in ``folder`` or a tar without suffix."""
    if not folder.is_dir():
        return {}
    root = os.path.abspath(folder)
    places = {path: os.path.relpath(extracted_path(str(path)), root) for path in paths}
    return {path: place.split(os.sep)[0] for path, place in places.items()}


def part(classes: dict[Path, str], val: Collection[Path] | None = None, seed: int = 0) -> set[Path]:
    """Choose the images to validate on, and say how many there are.

    Args:
        classes: The class of each image.
        val: Those to validate on, if they are given; by default a fifth of each class is drawn.
        seed: Seed of the draw.

    Raises:
        ValueError: If the images are of one class, or a part is empty or has a class that the
            other has not.
    """
    how, drawn = '', val is None
    if val is None:
        paths, names = list(classes), list(classes.values())
        val = {paths[number] for number in draw_part(names, _VAL_SHARE, seed).nonzero()[0]}
        how = f'; no --val: these were drawn (seed {seed})'
    val = {path for path in classes if path in val}
    learned = {name for path, name in classes.items() if path not in val}
    seen = {classes[path] for path in val}
    if len(learned | seen) < 2:
        raise ValueError(
            f'all images are of one class, {_listed(learned | seen)}: there is nothing to tell '
            'apart'
        )
    if not learned or not seen:
        which = 'validate on' if learned else 'learn from'
        raise ValueError(f'no image is left to {which}: pass other images, or another --val')
    if seen - learned:
        raise ValueError(
            f'class {_listed(seen - learned)} of the images to validate on is not among those to '
            'learn from: name the classes alike'
        )
    say(f'{len(val):,} images to validate on, {len(classes) - len(val):,} to learn from{how}')
    if drawn and learned - seen:
        say(f'class {_listed(learned - seen)} has a single image, which is learned from only')
    return val


def draw_part(labels: Sequence[object] | np.ndarray, share: float, seed: int) -> np.ndarray:
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


def scan_labelled(
    out: Path, classes: dict[Path, str], val: Collection[Path] | None = None, seed: int = 0
) -> LabelledImages:
    """Leave out what is unusable of labelled images, and part the others.

    Writes ``labels.csv``, ``left_out.csv``, and the lists ``train.txt`` and ``val.txt``.

    Args:
        out: Folder to write into.
        classes: The class of each image.
        val: As for :func:`part`.
        seed: Likewise.

    Raises:
        ValueError: If a class has no usable image, or as for :func:`part`.
    """
    out.mkdir(parents=True, exist_ok=True)
    # Of equal images in both parts the one to learn from is kept.
    paths = sorted(classes, key=set(val or ()).__contains__)
    scan = scan_listed(out, paths, classes, min_edge=1)
    _tell_of_conflicts(scan, classes)
    usable = {path: classes[path] for path in scan.accepted}
    to_learn, left = (
        {name for path, name in some.items() if path not in (val or ())}
        for some in (classes, usable)
    )
    if to_learn - left:
        raise ValueError(
            f'no image of class {_listed(to_learn - left)} is usable: see left_out.csv'
        )
    val = part(usable, val, seed)
    images = LabelledImages(
        {path: name for path, name in usable.items() if path not in val},
        {path: name for path, name in usable.items() if path in val},
        scan,
    )
    for name in ('train', 'val'):
        lines = ''.join(f'{path}\n' for path in getattr(images, name))
        (out / f'{name}.txt').write_text(lines, 'utf-8')
    return images


def _tell_of_conflicts(scan: Scan, classes: dict[Path, str]) -> None:
    """Tell of equal images with different labels, of which one must be wrong."""
    pairs = [(path, Path(reason.removeprefix(DUPLICATE))) for path, reason in scan.left_out]
    unlike = [(one, two) for one, two in pairs if classes.get(two, classes[one]) != classes[one]]
    if unlike:
        (path, first), name = unlike[0], classes.get
        say(
            f'{len(unlike):,} images have equals of another class, which are taken in their place, '
            f'such as {path} ({name(path)}) and {first} ({name(first)})',
            err=True,
        )


def _listed(names: Collection[str]) -> str:
    shown = ', '.join(sorted(names)[:5])
    return shown + (f' and {len(names) - 5} more' if len(names) > 5 else '')
