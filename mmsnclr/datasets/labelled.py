"""A labelled set of images: read, scanned, and parted into what is learned and what validates."""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sklearn.model_selection import train_test_split

from ..console import say
from .listing import list_images, read_labels
from .scan import DUPLICATE, Scan, scan_listed

VAL_SHARE = 0.2
_TRAIN, _VAL, _TEST = {'train', 'training'}, {'val', 'valid', 'validation'}, {'test'}


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


def read_labelled(
    labelled: str | Path,
    out: Path,
    val: str | Path | None = None,
    image_root: str | Path | None = None,
    seed: int = 0,
) -> LabelledImages:
    """Read a labelled set, leave out what is unusable, and part it.

    Writes ``labels.csv``, ``left_out.csv``, and the lists ``train.txt`` and ``val.txt``.

    Args:
        labelled: Folder with a folder for each class, also below ``train`` and ``val``, which
            are then the parts; or a csv with the columns ``path`` and ``label``.
        out: Folder to write into.
        val: Such a folder or csv of the images to validate on. By default, and if ``labelled``
            is not parted, a fifth of each class is drawn.
        image_root: Folder from which the paths in a csv are meant; by default its own.
        seed: Seed of the draw.

    Raises:
        FileNotFoundError: If an image is not there.
        ValueError: If labels are missing, or the classes are too few, or too small to be parted.
    """
    classes = _read(labelled, image_root)
    parts = _parts(Path(labelled), classes)
    if val is not None and parts is not None:
        raise ValueError(f'{labelled} has a validation part of its own: leave val={str(val)!r} out')
    if val is not None:
        parts = classes, _read(val, image_root)
        both = [path for path in classes if path in parts[1]]
        if both:
            raise ValueError(
                f'{len(both)} images, such as {str(both[0])!r}, are in {labelled} and in {val}: an '
                'image to validate on must not be learned from'
            )
    together = classes if parts is None else parts[0] | parts[1]
    out.mkdir(parents=True, exist_ok=True)
    scan = scan_listed(out, list(together), together, min_edge=1)
    _tell_of_conflicts(scan, together)
    used = set(scan.accepted)
    if parts is None:
        usable = {path: name for path, name in together.items() if path in used}
        _check_classes(together, usable)
        parts = _draw(usable, seed)
    else:
        parts = tuple({p: name for p, name in part.items() if p in used} for part in parts)
        _check_classes({p: name for p, name in together.items() if p not in parts[1]}, parts[0])
        _check_val(*parts)
    for name, part in zip(('train', 'val'), parts):
        (out / f'{name}.txt').write_text(''.join(f'{path}\n' for path in part), 'utf-8')
    return LabelledImages(*parts, scan)


def _read(source: str | Path, image_root: str | Path | None) -> dict[Path, str]:
    """Class of each image of a folder or csv."""
    paths = list_images(source, image_root)
    labels = 'folders' if Path(source).is_dir() else source
    return dict(zip(paths, read_labels(labels, paths, image_root)))


def _parts(
    folder: Path, classes: dict[Path, str]
) -> tuple[dict[Path, str], dict[Path, str]] | None:
    """What lies in ``train`` and what in ``val`` of a folder; ``None`` if it has not both."""
    if not folder.is_dir():
        return None
    root = os.path.abspath(folder)
    first = {path: path.relative_to(root).parts[0].lower() for path in classes}
    there = set(first.values())
    held_out = next((names for names in (_VAL, _TEST) if names & there), set())
    if not (_TRAIN & there and held_out and there <= _TRAIN | _VAL | _TEST):
        return None
    parts = tuple(
        {path: name for path, name in classes.items() if first[path] in names}
        for names in (_TRAIN, held_out)
    )
    aside = len(classes) - sum(map(len, parts))
    if aside:
        say(f'{aside:,} images of {folder / "test"} are not looked at: val is there')
    return parts


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


def _check_classes(given: dict[Path, str], usable: dict[Path, str]) -> None:
    """Refuse what cannot be learned: fewer than two classes, or one without a usable image."""
    gone = sorted(set(given.values()) - set(usable.values()))
    if gone:
        raise ValueError(f'no image of class {_listed(gone)} is usable: see left_out.csv')
    classes = set(usable.values())
    if len(classes) < 2:
        raise ValueError(
            f'all images are of one class, {_listed(sorted(classes))}: there is nothing to tell '
            'apart'
        )


def _check_val(train: dict[Path, str], val: dict[Path, str]) -> None:
    if not val:
        raise ValueError('no image to validate on is usable: see left_out.csv')
    unknown = sorted(set(val.values()) - set(train.values()))
    if unknown:
        raise ValueError(
            f'class {_listed(unknown)} of the images to validate on is not among those to learn '
            'from: name the classes alike'
        )


def _draw(usable: dict[Path, str], seed: int) -> tuple[dict[Path, str], dict[Path, str]]:
    """Part the images, each class alike."""
    counts = Counter(usable.values())
    single = sorted(name for name, count in counts.items() if count < 2)
    if single:
        raise ValueError(
            f'class {_listed(single)} has a single usable image, which cannot be both learned '
            'from and validated on: add images, or pass --val'
        )
    count = max(len(counts), round(VAL_SHARE * len(usable)))
    drawn = train_test_split(
        list(usable), test_size=count, random_state=seed, stratify=list(usable.values())
    )
    say(f'No --val: {count:,} of the images were drawn to validate on (seed {seed})')
    return tuple({path: usable[path] for path in sorted(part)} for part in drawn)


def _listed(names: list[str]) -> str:
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
