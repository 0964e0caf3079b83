"""Images with their nearest neighbours."""

from collections.abc import Sequence
from pathlib import Path

from ..console import check_least, say
from ..datasets.listing import list_images, read_labels
from ..engine.run import read_encoder
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
    workers: int | None = None,
) -> tuple[Path, Path]:
    """Show what a pretrained model takes for neighbours.

    Of a method with neighbours by its momentum branch, weighted by their positiveness where it
    has one; of any other backbone by cosine similarity of its features.

    Args:
        checkpoint: Checkpoint of any origin; a run's folder stands for its newest.
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
        workers: Processes that load images; by default one for each core, up to 8.

    Returns:
        ``out/neighbors.html`` and ``out/neighbors.png``.

    Raises:
        FileNotFoundError: If checkpoint, images or labels are not there.
        ValueError: If they cannot be used, or there are too few images.
    """
    check_least(dict(queries=queries, shown=shown), queries=1, shown=1)
    encoder = read_encoder(checkpoint)
    model = encoder.method
    out = Path(encoder.name).parent if out is None else Path(out)
    if model is None or not model.weighs:
        say(f'{encoder.name} has no positiveness of neighbours: cosine similarity is shown alone')
    paths = list_images(images, image_root)
    names = None if labels is None else read_labels(labels, paths, image_root)
    parts = ['features'] if model is None else ['keys', *['projections'] * model.weighs]
    found = represent_images(encoder, paths, names, max_images, seed, parts, workers)
    gallery = find_neighbors(model, found, queries, shown, seed)
    k = gallery.index.size(1)
    if k < shown:
        say(
            f'{k} neighbours of each are shown, not {shown}: the model weighs K = {k} '
            '(model.head.neighbors)'
        )
    page = write_neighbors_page(
        gallery,
        out / 'neighbors.html',
        'Nearest neighbours',
        f'{len(found.paths)} images as {encoder.name} sees them',
    )
    return page, draw_neighbors(gallery.first(12), out / 'neighbors.png')
