"""Images to validate on that were learned from already, in training or in pretraining."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..console import say
from .lists import read_text
from .near_duplicates import Fingerprints, near_pairs
from .scan import FINGERPRINTS, fingerprint_images, write_csv


def tell_of_leakage(
    out: Path, train: Sequence[Path], val: Sequence[Path], checkpoints: Sequence[str | Path]
) -> str:
    """Count the images to validate on that were seen before, list them, and say so.

    Written to ``leakage.csv``: an image that has an equal one (by the file's content), or that
    looks almost like another (by perceptual hash), with that one.

    Args:
        out: Folder of the list. Where a scan of the same images has left its fingerprints in it,
            they are not read again.
        train: Images to learn from; none if nothing is to be said of them.
        val: Images to validate on.
        checkpoints: What is started from, as files or folders of runs. The images of a pretraining
            are those in ``images.txt`` beside the checkpoint; ``'random'`` has none.

    Returns:
        A sentence for each, in markdown.
    """
    lines: list[str] = []
    rows: list[tuple] = []
    seen: list[tuple[str, Sequence[str | Path], Fingerprints]] = []
    for name in dict.fromkeys(map(str, checkpoints)):
        folder = Path(name) if Path(name).is_dir() else Path(name).parent
        if (folder / 'images.txt').is_file():
            seen.append((f'that {name} was pretrained on', *_listed(folder)))
            if (folder / 'init').is_dir():
                lines.append(f'What {name} itself had started from is not looked at.')
        elif name != 'random':
            lines.append(
                f'Whether {name} was pretrained on images to validate on cannot be told: there is '
                'no images.txt beside it.'
            )
    if train or seen:
        prints, learned = _known(out, val, train)
    if train:
        seen.insert(0, ('to learn from', train, learned))
    for number, (which, paths, others) in enumerate(seen):
        equal, near = _equal(prints, others), _near(prints, others)
        near = {image: other for image, other in near.items() if image not in equal}
        rows += [(val[i], 'equal to', paths[k], which) for i, k in equal.items()]
        rows += [(val[i], 'almost like', paths[k], which) for i, k in near.items()]
        line = (
            f'Of {len(val):,} images to validate on, {len(equal):,} are equal to images {which}, '
            f'and {len(near):,} more look almost like one.'
        )
        unread = int((others.content == 0).sum())
        if unread:
            line += f' {unread:,} of those cannot be read any more, and were not compared.'
        lines.insert(number, line)
    write_csv(out / 'leakage.csv', ('path', 'is', 'other', 'which is'), rows)
    if rows:
        lines.append(f'They are listed in {out / "leakage.csv"}.')
    text = '\n'.join(lines)
    if text:
        say(text)
    return text


def _listed(folder: Path) -> tuple[list[str], Fingerprints]:
    """The images that a scan has listed, and their fingerprints.

    Where it left none that fit, as those of before did, the images are read again, once.
    """
    paths = read_text(folder / 'images.txt').splitlines()
    kept = Fingerprints.read(folder / FINGERPRINTS)
    if kept is None or len(kept.look) != len(paths):
        kept = fingerprint_images([Path(path) for path in paths])
        if kept.content.all():  # else some may be there the next time
            with suppress(OSError):
                kept.write(folder / FINGERPRINTS)
    return paths, kept


def _known(folder: Path, *parts: Sequence[Path]) -> list[Fingerprints]:
    """Fingerprints of parts of a set, of which a scan in the folder may have listed all."""
    images, paths = [path for part in parts for path in part], None
    if (folder / FINGERPRINTS).is_file():
        paths, kept = _listed(folder)
    if paths is None or not set(paths).issuperset(map(str, images)):
        paths, kept = list(map(str, images)), fingerprint_images(images)
    number = {path: n for n, path in enumerate(paths)}
    return [kept.take([number[str(path)] for path in part]) for part in parts]


def _equal(prints: Fingerprints, others: Fingerprints) -> dict[int, int]:
    """One of the others that has the same content, for each image that has such."""
    values, first = np.unique(others.content, return_index=True)
    shared = np.flatnonzero(np.isin(prints.content, values) & (prints.content > 0))
    found = first[np.searchsorted(values, prints.content[shared])]
    return dict(zip(shared.tolist(), found.tolist()))


def _near(prints: Fingerprints, others: Fingerprints) -> dict[int, int]:
    """One of the others that looks almost the same, for each image that has such."""
    looks, which = np.unique(prints.look, return_inverse=True)
    other_looks, first = np.unique(others.look, return_index=True)
    found = np.full(len(looks), -1)
    for one, other in near_pairs(looks, other_looks):
        found[one] = first[other]
    return {image: other for image, other in enumerate(found[which].tolist()) if other >= 0}
