"""Features of images, for use elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checkpoints import refuse_inputs, replacing
from ..datasets.listing import list_images, read_labels
from ..datasets.scan import write_csv
from ..engine.run import read_encoder
from ..evaluation.representation import represent_images
from ..visualization import draw_projection, project


class Embedding(NamedTuple):
    """Where the features of some images were written.

    Attributes:
        npz: ``paths``, ``features`` ``(N, C)``, ``projection`` ``(N, 2)`` and,
            where there are some, ``labels``.
        csv: The same, an image per line; ``None`` unless it was asked for.
        picture: The projection, drawn.
    """

    npz: Path
    csv: Path | None
    picture: Path


def embed(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    labels: str | Path | None = None,
    projection: str = 'pca',
    max_images: int | None = None,
    seed: int = 0,
    csv: bool = False,
    image_root: str | Path | None = None,
    workers: int | None = None,
) -> Embedding:
    """Write the backbone's features of images, and plot them in two dimensions.

    Args:
        checkpoint: Checkpoint of any origin; a run's folder stands for its newest.
        images: Folders, tars, text files with paths, COCO json files or image files.
        out: Folder to write into.
        labels: ``'folders'``, where folder names are classes, ``'cls'``, where tars have
            ``.cls`` files, or a csv file with the columns ``path`` and ``label``.
        projection: ``'pca'`` or ``'tsne'``.
        max_images: If there are more images, so many are drawn at random.
        seed: Seed of the choice and of the projection.
        csv: Whether to write the features as a text, too, at 10 bytes a value.
        image_root: Folder from which paths in text, json and csv files are meant;
            by default the folder of the file.
        workers: Processes that load images; by default one for each core, up to 8.

    Returns:
        The files.

    Raises:
        FileNotFoundError: If checkpoint, images or labels are not there.
        ValueError: If they cannot be used, or there are too few images.
    """
    out = Path(out)
    files = Embedding(
        out / 'features.npz', out / 'features.csv' if csv else None, out / 'projection.png'
    )
    refuse_inputs(out, [file.name for file in files if file], dict(images=images, labels=labels))
    encoder = read_encoder(checkpoint)
    paths = list_images(images, image_root)
    names = None if labels is None else read_labels(labels, paths, image_root)
    found = represent_images(encoder, paths, names, max_images, seed, ['features'], workers)
    features = found.parts['features'].numpy()
    positions = project(features, projection, seed)
    out.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = dict(paths=np.array(found.paths))
    if found.labels is not None:
        columns['labels'] = np.array(found.labels)
    with replacing(str(files.npz)) as name, open(name, 'wb') as file:
        np.savez_compressed(file, **columns, projection=positions, features=features)
    if files.csv:
        with replacing(str(files.csv)) as name:
            _write_table(name, columns, positions, features)
    title = f'{len(features)} images by {_TITLES[projection]}'
    draw_projection(positions, found.labels, files.picture, title)
    return files


def _write_table(
    path: str, columns: dict[str, np.ndarray], positions: np.ndarray, features: np.ndarray
) -> None:
    header = [*(column[:-1] for column in columns), 'x', 'y']
    header += [f'feature_{i}' for i in range(features.shape[1])]
    rows = zip(*columns.values(), positions, features)
    table = ((*texts, *(f'{x:.6g}' for x in (*place, *row))) for *texts, place, row in rows)
    write_csv(path, header, table)


_TITLES = dict(pca='principal components', tsne='t-SNE')
