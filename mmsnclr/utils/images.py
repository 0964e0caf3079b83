"""Images that a user names, and their labels."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def list_images(sources: Sequence[str | Path]) -> list[Path]:
    """Collect the images of folders, lists and COCO files, each once.

    Args:
        sources: Folders, searched recursively; ``.json`` files in COCO's
            format; image files; any other file is a text with a path per line.
            Paths in files are meant from the file's folder.

    Returns:
        Absolute paths; those of a folder are sorted.

    Raises:
        FileNotFoundError: If a source, or an image that a file lists, is not
            there.
        ValueError: If no image is found.
    """
    found = []
    for source in map(Path, sources):
        if source.is_dir():
            found += sorted(p for p in source.rglob('*') if p.suffix.lower() in SUFFIXES)
        elif not source.is_file():
            raise FileNotFoundError(f'there is no folder or file {str(source)!r}')
        elif source.suffix.lower() in SUFFIXES:
            found.append(source)
        elif source.suffix.lower() == '.json':
            images = json.loads(source.read_text())['images']
            found += [source.parent / image['file_name'] for image in images]
        else:
            found += [source.parent / name for name in source.read_text().split('\n') if name]
    images = list(dict.fromkeys(Path(os.path.abspath(path)) for path in found))
    missing = [path for path in images if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(images)} images are missing, the first {str(missing[0])!r}'
        )
    if not images:
        raise ValueError(f'no images in {", ".join(map(str, sources))}: {" ".join(SUFFIXES)}')
    return images


def read_labels(source: str | Path | None, images: Sequence[Path]) -> list[str] | None:
    """Labels for evaluation.

    Args:
        source: ``'folders'`` for the names of the images' folders, or a csv
            file with the columns ``path``, meant from the file's folder, and
            ``label``; ``None`` for none.
        images: Absolute paths.

    Returns:
        One label for each image, or ``None``.

    Raises:
        FileNotFoundError: If there is no such csv file.
        ValueError: If the csv lacks a column, or an image a label.
    """
    if source is None:
        return None
    if source == 'folders':
        return [path.parent.name for path in images]
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"--labels {source}: no such csv file; folder names are 'folders'")
    with source.open(newline='') as file:
        rows = csv.DictReader(file)
        if not {'path', 'label'} <= set(rows.fieldnames or ()):
            raise ValueError(f"{source}: the first line must be 'path,label'")
        labels = {os.path.abspath(source.parent / row['path']): row['label'] for row in rows}
    missing = [path for path in images if str(path) not in labels]
    if missing:
        raise ValueError(
            f'{source} has no label for {len(missing)} of the {len(images)} images, such as '
            f'{str(missing[0])!r}'
        )
    return [labels[str(path)] for path in images]


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as it is looked at: upright, 8 bits, three channels.

    Args:
        path: The image.

    Returns:
        ``(H, W, 3)`` uint8 BGR.

    Raises:
        ValueError: If the file is not an image, or damaged.
    """
    try:
        with Image.open(path) as image:
            rgb = ImageOps.exif_transpose(image).convert('RGB')
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path} cannot be read as an image: {error}') from error
    return np.ascontiguousarray(np.asarray(rgb)[..., ::-1])
