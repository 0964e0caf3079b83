"""Images that a user names, and their labels."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

from ..console import say
from .decoding import SUFFIXES
from .lists import listed_images, locate, parse_table, read_text, tell_of_unread
from .parts import part_named
from .shards import (
    extracted_path,
    is_shard,
    label_of,
    load_shards,
    place_in_tar,
)

# What verbs write as pictures, by what they write beside them: no images of the next run.
_RESULTS = {
    'neighbors.html': {'neighbors.png'},
    'features.npz': {'projection.png'},
    'predictions.json': {'pictures'},
    'precision_recall.png': {'precision_recall.png', 'pictures'},
    'confusion_matrix.png': {'confusion_matrix.png'},
    'study.json': {'curve.png'},
}


def list_images(
    sources: str | Path | Sequence[str | Path], image_root: str | Path | None = None
) -> list[Path]:
    """Collect the images of folders, tars, lists and COCO files, each once, whatever links to it.

    Says on the console which other kinds of files a folder holds, and which folders cannot be read.

    Args:
        sources: One or more: folders, searched recursively; tars, which may also lie in
            folders; ``.json`` files in COCO's format; image files; ``.csv`` files with a column
            ``path``; any other file is a text with a path per line, alone or before a label
            (``path label`` or ``path,label``).
        image_root: Folder from which paths in text and json files are meant;
            by default the folder of the file.

    Returns:
        Absolute paths; those of a folder or tar are sorted, and those in a tar begin with its own.

    Raises:
        FileNotFoundError: If a source, or an image that a file lists, is not
            there.
        ValueError: If a json file is not in COCO's format, a tar is damaged or
            compressed, or no image is found.
    """
    return list(map(Path, image_paths(sources, image_root)))


def image_paths(
    sources: str | Path | Sequence[str | Path], image_root: str | Path | None = None
) -> list[str]:
    """What :func:`list_images` collects, as texts, which take less time and memory."""
    files: dict[str, str] = {}  # by what they are without links
    others: Counter[str] = Counter()
    unread: list[OSError] = []
    if isinstance(sources, str | Path):
        sources = [sources]
    for source in map(Path, sources):
        if source.is_dir():
            top, real = os.path.abspath(source), os.path.realpath(source)
            found = _walk(top, others, unread, {real})
        elif not source.is_file():
            raise FileNotFoundError(f'there is no folder or file {str(source)!r}')
        elif source.suffix.lower() in SUFFIXES or is_shard(str(source)):
            found = unlinked([source])
        else:
            found = unlinked(listed_images(source, image_root))
        for path, real in found:
            files.setdefault(real, path)
    tell_of_unread(unread)
    images = _with_those_in_tars(files, others)
    kinds = ', '.join(f'{count:,} {kind}' for kind, count in others.most_common(5))
    if not images:
        raise ValueError(
            f'no images in {", ".join(map(str, sources))}: looked for {" ".join(sorted(SUFFIXES))} '
            'and .tar of these'
            + (f', found {kinds}; convert these to one of them' if kinds else '')
        )
    if kinds:
        say(f'{others.total():,} files of other kinds are not looked at: {kinds}', err=True)
    return images


def unlinked(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Absolute paths, and what they are without links."""
    real_folder = cache(os.path.realpath)
    for path in map(os.path.abspath, paths):
        folder, name = os.path.split(path)
        real = os.path.join(real_folder(folder), name)
        yield path, os.path.realpath(real) if os.path.islink(real) else real


def _with_those_in_tars(files: dict[str, str], others: Counter) -> list[str]:
    """Images, and in the place of each tar those in it."""
    tars = {real: path for real, path in files.items() if is_shard(path)}
    shards = dict(zip(tars, load_shards(tars.values())))
    if not shards:
        return list(files.values())
    found: dict[str, str] = {}
    for real, path in files.items():
        if real not in shards:
            found.setdefault(real, path)
            continue
        names = shards[real].names
        if not names:
            others['.tar without images'] += 1
        for name in names:
            found.setdefault(f'{real}/{name}', f'{path}/{name}')
    return list(found.values())


def _walk(
    folder: str, others: Counter, unread: list[OSError], visited: set[str]
) -> Iterator[tuple[str, str]]:
    """Images and tars below a folder, and what they are without links, into no folder twice.

    Asks the disk for the names in each folder, and for a file of its own only where it is a link.
    Counts in ``others`` the files of other kinds, what is no file, such as a named pipe, and the
    pictures of verbs; ``unread`` receives the errors of folders that cannot be listed.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        unread.append(error)
        return
    names = {entry.name for entry in entries}
    results = set().union(*(_RESULTS[name] for name in _RESULTS if name in names)) & names
    if results:
        others['results of mmsnclr'] += len(results)
    kept = [e for e in entries if not e.name.startswith('.') and e.name not in results]
    kept = [(entry, _kind(entry)) for entry in sorted(kept, key=_order)]
    inner = set()
    for entry, kind in kept:
        real = os.path.realpath(entry.path) if kind == 'folder' else None
        if real is not None and real not in visited:
            visited.add(real)
            inner.add(entry.name)
    real_folder = os.path.realpath(folder)
    for entry, kind in kept:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name in inner:
            yield from _walk(entry.path, others, unread, visited)
        elif kind == 'file' and (suffix in SUFFIXES or suffix == '.tar'):
            real = entry.path if real_folder == folder else f'{real_folder}/{entry.name}'
            yield entry.path, os.path.realpath(real) if entry.is_symlink() else real
        elif kind != 'folder':
            others[(suffix or 'without suffix') if kind == 'file' else 'pipe or device'] += 1


def _kind(entry: os.DirEntry) -> str:
    if not entry.is_symlink():
        return 'folder' if entry.is_dir() else 'file' if entry.is_file() else 'other'
    if os.path.isdir(entry.path):
        return 'folder'
    # A link to nowhere is listed, so that it is said to be.
    is_file = os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return 'file' if is_file else 'other'


def _order(entry: os.DirEntry) -> tuple[str, str]:
    """By what is sorted: names, those of tars as if they were extracted."""
    name = entry.name
    return name[: -len('.tar')] if name.lower().endswith('.tar') else name, name


def read_labels(
    source: str | Path, images: Sequence[str | Path], root: str | Path | None = None
) -> list[str]:
    """Read labels for evaluation.

    Args:
        source: ``'folders'`` for the first level of folders at which the images' differ, be it
            below ``train`` and ``val``, or in tars (a tar of images in no folder counts as one);
            ``'cls'`` for what stands in the ``.cls`` files beside images in tars; or a csv file
            with the columns ``path`` and ``label``.
        images: Absolute paths.
        root: Folder from which the paths in the csv are meant; by default its
            own.

    Returns:
        One label for each image.

    Raises:
        FileNotFoundError: If there is no such csv file.
        ValueError: If the csv lacks a column, an image a label or has several, or the folders are
            one class.
    """
    if source == 'folders':
        return _folder_labels(images)
    if source == 'cls':
        return _cls_labels(images)
    if not Path(source).is_file():
        raise FileNotFoundError(
            f"labels={str(source)!r} is neither a csv file nor 'folders' nor 'cls'"
        )
    root = os.path.abspath(root or Path(source).parent)
    rows = list(_read_table(source))
    labels = _by_place(source, [os.path.join(root, path) for path, _ in rows], rows)
    found = [labels.get(_key(path), '') for path in images]
    if '' in found:
        located = locate(source, Path(root), [path for path, _ in rows])
        labels = _by_place(source, [place and os.path.realpath(place) for place in located], rows)
        reals = map(os.path.realpath, images)
        found = [label or labels.get(_key(real), '') for label, real in zip(found, reals)]
    missing = [path for path, label in zip(images, found) if not label]
    if missing:
        raise ValueError(
            f'{source} has no label for {len(missing)} of the {len(images)} images, such as '
            f'{str(missing[0])!r}; its paths are meant from {root}'
        )
    return found


def _read_table(source: str | Path) -> Iterator[tuple[str, str]]:
    """Paths and labels of a csv."""
    columns, rows = parse_table(read_text(source))
    if not {'path', 'label'} <= set(columns):
        raise ValueError(f"{source} must have the columns 'path' and 'label' in its first line")
    for row in filter(None, rows):
        yield row.get('path', ''), row.get('label', '')


def _by_place(
    source: str | Path, places: Sequence[str | Path | None], rows: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """The label of each image, by where the paths of a csv are."""
    labels: dict[str, str] = {}
    for place, (path, label) in zip(places, rows):
        if place is not None and labels.setdefault(_key(place), label) != label:
            kept = labels[_key(place)]
            raise ValueError(
                f'{source} has several labels for {path!r}, {kept!r} and {label!r}: keep one'
            )
    return labels


def _key(path: str | Path) -> str:
    """A path as it is compared: with slashes, and its accents in one form."""
    return os.path.normpath(unicodedata.normalize('NFC', str(path)).replace('\\', '/'))


def _cls_labels(images: Sequence[str | Path]) -> list[str]:
    labels = [label_of(str(path)) for path in images]
    if '' in labels:
        raise ValueError(
            f"labels='cls': {labels.count('')} of the {len(images)} images are in no tar with a "
            f'.cls file for them, such as {str(images[labels.index("")])!r}'
        )
    return labels


def _folder_labels(images: Sequence[str | Path]) -> list[str]:
    folders = [os.path.dirname(path) for path in images]
    parts = _parts(dict.fromkeys(folders))
    for names in zip_longest(*parts.values(), fillvalue=''):
        classes = sorted(set(names))
        if '' in classes:
            image = str(images[folders.index(list(parts)[names.index('')])])
            raise ValueError(f"labels='folders': {image!r} lies in no folder of a class")
        if len(classes) > 1 and not _are_parts(classes):
            shown = ', '.join(classes[:5]) + (', ...' if len(classes) > 5 else '')
            say(f'labels: {len(classes):,} classes by the names of folders: {shown}', err=True)
            name_of = dict(zip(parts, names))
            return [name_of[folder].strip() for folder in folders]  # as those of a csv
    raise ValueError(
        f"labels='folders': all {len(images):,} images are of one class, such as "
        f'{str(images[0])!r}; classes need a folder each'
    )


def _are_parts(folders: list[str]) -> bool:
    """Whether folders are the parts of a set, not classes; an error if only some of them are."""
    others = [folder for folder in folders if part_named(folder) is None]
    found = {part_named(folder) for folder in folders}
    if others and 'train' in found and found & {'val', 'test'}:
        parts = ', '.join(folder for folder in folders if part_named(folder))
        raise ValueError(
            f"labels='folders': {parts} are the parts of a set, no classes, and beside them is "
            f'{", ".join(others[:5])}: move that elsewhere, or pass the folders of the parts by '
            'themselves; classes that are called so need a csv of labels'
        )
    return not others


def _parts(folders: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names that make up the path of each folder, without those of tars that hold folders."""
    places = {folder: place_in_tar(f'{folder}/') for folder in folders}
    flat = any(place and not place[1] for place in places.values())

    def outside(folder: str, place: tuple[str, str] | None) -> Path:
        if place is None:
            return Path(folder)
        return Path(extracted_path(f'{folder}/')) if flat else Path(place[0]).parent / place[1]

    return {folder: outside(folder, place).parts for folder, place in places.items()}
