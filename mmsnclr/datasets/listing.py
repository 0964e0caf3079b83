"""Images that a user names, and their labels."""

import csv
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from io import StringIO
from itertools import zip_longest
from pathlib import Path

from ..console import say

# fmt: off
SUFFIXES = frozenset([
    '.avif', '.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.ppm', '.tif',
    '.tiff', '.webp',
])
# fmt: on
# What verbs write as pictures, by what they write beside them: no images of the next run.
_RESULTS = {
    'neighbors.html': {'neighbors.png'},
    'features.npz': {'projection.png'},
    'predictions.json': {'pictures'},
    'precision_recall.png': {'precision_recall.png', 'pictures'},
    'confusion_matrix.png': {'confusion_matrix.png'},
}
_BYTE_ORDERS = (b'\xff\xfe', b'\xfe\xff')  # what a text in UTF-16 starts with
_LONGEST_LINE = 4096  # of Linux's paths
_SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'test'}


def list_images(
    sources: str | Path | Sequence[str | Path], image_root: str | Path | None = None
) -> list[Path]:
    """Collect the images of folders, lists and COCO files, each once, whatever links to it.

    Says on the console which other kinds of files a folder holds.

    Args:
        sources: One or more: folders, searched recursively; ``.json`` files in COCO's
            format; image files; any other file is a text with a path per line, alone or
            before a label (``path label`` or ``path,label``).
        image_root: Folder from which paths in text and json files are meant;
            by default the folder of the file.

    Returns:
        Absolute paths; those of a folder are sorted.

    Raises:
        FileNotFoundError: If a source, or an image that a file lists, is not
            there.
        ValueError: If a json file is not in COCO's format, or no image is
            found.
    """
    paths: dict[str, Path] = {}
    others = Counter()
    if isinstance(sources, str | Path):
        sources = [sources]
    real_folder = cache(os.path.realpath)
    for source in map(Path, sources):
        if source.is_dir():
            files = sorted(_walk(source, others))
            found = [path for path in files if path.suffix.lower() in SUFFIXES]
            kinds = (path.suffix.lower() for path in files)
            others.update(kind or 'without suffix' for kind in kinds if kind not in SUFFIXES)
        elif not source.is_file():
            raise FileNotFoundError(f'there is no folder or file {str(source)!r}')
        elif source.suffix.lower() in SUFFIXES:
            found = [source]
        else:
            found = _listed(source, image_root)
        for path in map(os.path.abspath, found):
            folder, name = os.path.split(path)
            real = os.path.join(real_folder(folder), name)
            real = os.path.realpath(real) if os.path.islink(real) else real
            paths.setdefault(real, Path(path))
    kinds = ', '.join(f'{count:,} {kind}' for kind, count in others.most_common(5))
    if not paths:
        raise ValueError(
            f'no images in {", ".join(map(str, sources))}: looked for {" ".join(sorted(SUFFIXES))}'
            + (f', found {kinds}; convert these to one of them' if kinds else '')
        )
    if kinds:
        say(f'{others.total():,} files of other kinds are not looked at: {kinds}', err=True)
    return list(paths.values())


def _walk(folder: Path, others: Counter) -> Iterator[Path]:
    """Files below a folder; links are followed, but into no folder twice.

    Counts in ``others`` what is no file, such as a named pipe, and the pictures of verbs.
    """
    visited = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        results = set().union(*(_RESULTS[name] for name in _RESULTS if name in names))
        results &= {*folders, *names}
        if results:
            others['results of mmsnclr'] += len(results)
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(parent, name))
            if not name.startswith('.') and name not in results and real not in visited:
                visited.add(real)
                kept.append(name)
        folders[:] = kept
        for name in names:
            if name.startswith('.') or name in results:
                continue
            path = os.path.join(parent, name)
            # A link to nowhere is listed, so that it is said to be.
            if os.path.isfile(path) or not os.path.exists(path):
                yield Path(path)
            else:
                others['pipe or device'] += 1


def read_text(path: str | Path) -> str:
    """Read a text in UTF-8 or UTF-16, as Windows writes them, too.

    Raises:
        ValueError: If it is in another encoding, or no text.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode('utf-16' if data[:2] in _BYTE_ORDERS else 'utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} must be a text in UTF-8: {error}') from error
    if '\0' in text:
        raise ValueError(f'{path} must be a text in UTF-8: it has zero bytes')
    return text


def _listed(source: Path, image_root: str | Path | None) -> list[Path]:
    """Images that a text or a COCO file lists."""
    root = Path(image_root or source.parent)
    try:
        text = read_text(source)
    except ValueError as error:
        kinds = ' '.join(sorted(SUFFIXES))
        raise ValueError(f'{source} is neither a text nor one of {kinds}: {error}') from error
    if source.suffix.lower() == '.json':
        try:
            names = [os.fspath(image['file_name']) for image in json.loads(text)['images']]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{source} is not in COCO's format, a list 'images' whose entries have a "
                f"'file_name': {error!r}"
            ) from error
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    paths = [_locate(root, name) for name in names]
    if len(names) > 1 and paths[0] is None and _is_heading(*names[:2]):
        del names[0], paths[0]
    missing = [root / name for name, path in zip(names, paths) if path is None]
    if missing:
        advice = 'pass the folder that its paths start from as --image-root'
        if image_root is not None:
            advice = f'are its paths meant from --image-root {root}?'
        raise FileNotFoundError(
            f'{source} lists {len(paths)} images, of which {len(missing)} are missing, the first '
            f'{str(missing[0])!r}: {advice} (a line is a path, "path label" or "path,label")'
        )
    return paths


def _locate(root: Path, line: str) -> Path | None:
    """The image that a line names, alone or before a label, quoted, or with backslashes."""
    paths = (root / name for name in _readings(line))
    return next((path for path in paths if os.path.isfile(path)), None)


def _readings(line: str) -> Iterator[str]:
    """What a line may mean, from the most to the least literal."""
    yield line
    if len(line) > _LONGEST_LINE:
        return
    slashed = line.replace('\\', '/')
    accents = (unicodedata.normalize(form, slashed) for form in ('NFC', 'NFD'))  # macOS writes NFD
    for text in dict.fromkeys((line, slashed, *accents)):
        for separator in (',', ';', '\t', ' '):
            parts = text.split(separator)
            for end in range(len(parts), 0, -1):
                yield separator.join(parts[:end]).strip().strip('\'"')


def _is_heading(line: str, next_line: str) -> bool:
    """Whether a line names columns, as the next one names an image."""
    names_image = [
        any(Path(name).suffix.lower() in SUFFIXES for name in _readings(text))
        for text in (line, next_line)
    ]
    return names_image == [False, True]


def read_labels(
    source: str | Path | None, images: Sequence[Path], root: str | Path | None = None
) -> list[str] | None:
    """Read labels for evaluation.

    Args:
        source: ``'folders'`` for the first level of folders at which the images' differ, be it
            below ``train`` and ``val``; or a csv file with the columns ``path`` and ``label``;
            ``None`` for none.
        images: Absolute paths.
        root: Folder from which the paths in the csv are meant; by default its
            own.

    Returns:
        One label for each image, or ``None``.

    Raises:
        FileNotFoundError: If there is no such csv file.
        ValueError: If the csv lacks a column, an image a label, or the folders are one class.
    """
    if source is None:
        return None
    if source == 'folders':
        return _folder_labels(images)
    if not Path(source).is_file():
        raise FileNotFoundError(f"labels={str(source)!r} is neither a csv file nor 'folders'")
    root = os.path.abspath(root or Path(source).parent)
    rows = csv.DictReader(StringIO(read_text(source), newline=''))
    if not {'path', 'label'} <= set(rows.fieldnames or ()):
        raise ValueError(f"{source} must have the columns 'path' and 'label' in its first line")
    labels = {_key(os.path.join(root, row['path'] or '')): row['label'] for row in rows}
    found = [labels.get(_key(path)) for path in images]
    missing = [path for path, label in zip(images, found) if not label]
    if missing:
        raise ValueError(
            f'{source} has no label for {len(missing)} of the {len(images)} images, such as '
            f'{str(missing[0])!r}; its paths are meant from {root}'
        )
    return found


def _key(path: str | Path) -> str:
    """A path as it is compared: with slashes, and its accents in one form."""
    return os.path.normpath(unicodedata.normalize('NFC', str(path)).replace('\\', '/'))


def _folder_labels(images: Sequence[Path]) -> list[str]:
    for names in zip_longest(*(path.parts[:-1] for path in images), fillvalue=''):
        classes = sorted(set(names))
        if '' in classes:
            image = str(images[names.index('')])
            raise ValueError(f"labels='folders': {image!r} lies in no folder of a class")
        if len(classes) > 1 and not _SPLITS.issuperset(name.lower() for name in classes):
            shown = ', '.join(classes[:5]) + (', ...' if len(classes) > 5 else '')
            say(f'labels: {len(classes):,} classes by the names of folders: {shown}', err=True)
            return list(names)
    raise ValueError(
        f"labels='folders': all {len(images):,} images are of one class, such as "
        f'{str(images[0])!r}; classes need a folder each'
    )
