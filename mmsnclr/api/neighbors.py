"""Images with their nearest neighbours."""

from collections.abc import Sequence
from pathlib import Path

from ..console import say
from ..datasets.listing import list_images, read_labels
from ..engine.run import load_run
from ..evaluation.representation import represent_images
from ..visualization import draw_neighbors, find_neighbors, write_neighbors_page


def neighbors(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    out: str | Path | None = None,
    labels: str | Path | None = None,
    queries: int = 40,
    shown: int = 10,
    max_images: int | None = None,
    seed: int = 0,
    image_root: str | Path | None = None,
) -> tuple[Path, Path]:
    """Show what a pretrained model takes for neighbours.

    Args:
        checkpoint: Checkpoint of a pretraining.
        images: Folders, tars, text files with paths, COCO json files or image files.
        out: Folder for the picture and the page; that of the checkpoint by
            default.
        labels: ``'folders'``, where folder names are classes, ``'cls'``, where tars have
            ``.cls`` files, or a csv file with the columns ``path`` and ``label``; only for showing.
        queries: Number of images that are looked at; the picture has the
            first 12 of them.
        shown: Number of neighbours of each.
        max_images: If there are more images, so many are drawn at random.
        seed: Seed of the choices.
        image_root: Folder from which paths in text, json and csv files are meant;
            by default the folder of the file.

    Returns:
        ``out/neighbors.html`` and ``out/neighbors.png``.

    Raises:
        FileNotFoundError: If checkpoint, images or labels are not there.
        ValueError: If they cannot be used, or there are too few images.
    """
    out = Path(checkpoint).parent if out is None else Path(out)
    cfg, model = load_run(checkpoint)
    paths = list_images(images, image_root)
    names = read_labels(labels, paths, image_root)
    found = represent_images(cfg, model, paths, names, max_images, seed)
    gallery = find_neighbors(model, found, queries, shown, seed)
    if gallery.index.size(1) < shown:
        say(
            f'{gallery.index.size(1)} neighbours of each are shown, not {shown}: the model weighs '
            f'K = {model.neighbors} (model.head.neighbors)'
        )
    page = write_neighbors_page(
        gallery,
        out / 'neighbors.html',
        'Nearest neighbours',
        f'{len(found.paths)} images as {checkpoint} sees them',
    )
    return page, draw_neighbors(gallery.first(12), out / 'neighbors.png')
