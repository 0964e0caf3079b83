"""Queries, their nearest neighbours and their positiveness, as the paper's figure 3."""

from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..datasets.decoding import read_image
from ..evaluation.representation import Representations
from ..models import NeighborMethod, NeighborQueue
from ..models.queue import Neighbors
from .pages import data_uri, write_page


class Gallery(NamedTuple):
    """Some images with their nearest neighbours among the others.

    Attributes:
        paths: All images.
        labels: Their class names, or ``None``.
        queries: Which of them are looked at, ``(Q,)``.
        index: Their neighbours, most similar first, ``(Q, K)``.
        similarity: Cosine similarity, ``(Q, K)``.
        positiveness: How much each counts, the highest of a row being 1, ``(Q, K)``;
            ``None`` where the model does not weigh them.
        levels: By which values of images with more than 8 bits are shown, as they were seen.
    """

    paths: list[str]
    labels: list[str] | None
    queries: Tensor
    index: Tensor  # type: ignore[assignment]  # in the place of tuple's method
    similarity: Tensor
    positiveness: Tensor | None
    levels: tuple[int, int] | None

    def is_same_class(self, row: int) -> list[bool] | None:
        """Whether each neighbour in a row is of the query's class, if labels exist."""
        if self.labels is None:
            return None
        own = self.labels[self.queries[row]]
        return [self.labels[image] == own for image in self.index[row].tolist()]

    def first(self, queries: int) -> 'Gallery':
        """The gallery's first queries alone."""
        parts = (self.queries, self.index, self.similarity)
        rows, index, similarity = (part[:queries] for part in parts)
        positiveness = None if self.positiveness is None else self.positiveness[:queries]
        return Gallery(self.paths, self.labels, rows, index, similarity, positiveness, self.levels)

    @property
    def shares(self) -> Tensor:
        """What is shown of each neighbour: positiveness or, without one, similarity."""
        return self.similarity if self.positiveness is None else self.positiveness

    @property
    def purity(self) -> float | None:
        """Share of neighbours of their query's class, if labels exist."""
        if self.labels is None:
            return None
        return float(np.mean([self.is_same_class(row) for row in range(len(self.queries))]))


@torch.no_grad()
def find_neighbors(
    model: NeighborMethod | None,
    images: Representations,
    queries: int = 8,
    shown: int = 10,
    seed: int = 0,
) -> Gallery:
    """Find the nearest neighbours of random images, and what they count.

    Neighbours are found with the momentum branch (Eq. 3) and weighted by their
    positiveness (Eq. 4) where the method has one; without a method by features.

    Args:
        model: A trained model, if there is more than a backbone.
        images: What it makes of the images.
        queries: Number of images that are looked at.
        shown: Number of neighbours of each.
        seed: Seed of the choice of queries.

    Returns:
        The gallery.

    Raises:
        ValueError: If there are no more images than neighbours.
    """
    keys = images.parts['features' if model is None else 'keys']
    weighing = model if model is not None and model.weighs else None
    count, k, setting = len(keys), shown, 'shown'
    if weighing is not None:
        k, setting = weighing.neighbors or shown, 'model.head.neighbors'
    if count <= k:
        raise ValueError(f'{k} neighbours ({setting}) need more than {count} images')
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:queries]
    candidates = NeighborQueue(count, keys.size(1))
    candidates.enqueue(keys, torch.arange(count))
    found = candidates.search(candidates.features[rows], rows, k)
    positiveness = None
    if weighing is not None:
        projections = images.parts['projections'][rows]
        positiveness = _positiveness(weighing, projections, candidates, found)[:, :shown]
    index, similarity = (x[:, :shown] for x in (found.index, found.similarity))
    return Gallery(
        images.paths, images.labels, rows, index, similarity, positiveness, images.levels
    )


def _positiveness(
    model: NeighborMethod, projections: Tensor, candidates: NeighborQueue, found: Neighbors
) -> Tensor:
    """How much each neighbour counts, ``(Q, K)``, the highest of a row being 1."""
    device = next(model.parameters()).device
    log_weights = model.log_weights(
        projections.to(device),
        candidates.features.to(device),
        Neighbors(*(x.to(device) for x in found)),
    ).cpu()
    return (log_weights - log_weights.amax(dim=1, keepdim=True)).exp()


def draw_neighbors(gallery: Gallery, path: str | Path) -> Path:
    """Draw a gallery as a picture.

    Args:
        gallery: What to draw. Where labels exist, a neighbour's frame tells
            whether it is of the query's class.
        path: Picture to write.

    Returns:
        The picture's path.
    """
    rows, shown = gallery.index.shape
    figure = Figure((max(6.5, 1.1 * (shown + 1)), 1.35 * rows), layout='constrained')
    axes = figure.subplots(rows, shown + 1, squeeze=False)
    for row, query in enumerate(gallery.queries.tolist()):
        images = [query, *gallery.index[row].tolist()]
        same = gallery.is_same_class(row)
        for column, (image, axis) in enumerate(zip(images, axes[row])):
            axis.imshow(thumbnail(gallery.paths[image], 160, gallery.levels)[..., ::-1])
            axis.set(xticks=[], yticks=[])
            share = gallery.shares[row, column - 1]
            axis.set_title('query' if column == 0 else f'{share:.2f}', fontsize=8, pad=2)
            if same is not None and column > 0:
                for spine in axis.spines.values():
                    spine.set(
                        color='tab:green' if same[column - 1] else 'tab:red',
                        linestyle='-' if same[column - 1] else ':',
                        linewidth=2.5,
                    )
    weighed = gallery.positiveness is not None
    number = 'positiveness, the highest of a row being 1' if weighed else 'cosine similarity'
    legend = f'Nearest of {len(gallery.paths) - 1} images; number: {number}'
    if gallery.labels is not None:
        legend += "\nframe: solid green if of the query's class, dotted red if not"
    figure.suptitle(legend, fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def write_neighbors_page(gallery: Gallery, path: str | Path, title: str, about: str) -> Path:
    """Write a gallery as one HTML page that needs no other file and no network.

    It is sorted by purity where labels exist; ``about`` is a sentence below the title.
    """
    view = gallery_view(gallery)
    return write_page(path, 'neighbors.html', title=title, about=about, gallery=view)


def gallery_view(gallery: Gallery) -> dict:
    """What the pages' template shows of a gallery."""

    def tile(image: int) -> dict:
        path = Path(gallery.paths[image])
        return dict(
            name='/'.join(path.parts[-2:]),
            file=path.name,
            label=gallery.labels[image] if gallery.labels else None,
            picture=pictures[image],
        )

    images = {*gallery.queries.tolist(), *gallery.index.flatten().tolist()}
    pictures = {
        image: data_uri(thumbnail(gallery.paths[image], 112, gallery.levels)) for image in images
    }
    rows = []
    for row, query in enumerate(gallery.queries.tolist()):
        same = gallery.is_same_class(row)
        values = zip(
            gallery.index[row].tolist(),
            gallery.similarity[row].tolist(),
            gallery.shares[row].tolist(),
            same or repeat(None),
        )
        neighbors = [
            tile(image) | dict(similarity=similarity, share=share, same=is_same)
            for image, similarity, share, is_same in values
        ]
        purity = None if same is None else sum(same) / len(same)
        rows.append(tile(query) | dict(neighbors=neighbors, purity=purity))
    rows.sort(key=lambda row: -(row['purity'] or 0))
    return dict(
        rows=rows,
        purity=gallery.purity,
        images=len(gallery.paths),
        weighed=gallery.positiveness is not None,
    )


def thumbnail(path: str | Path, edge: int, levels: tuple[int, int] | None = None) -> np.ndarray:
    """An image, ``(H, W, 3)`` uint8 BGR, with a longer edge of at most so many pixels.

    One of more than 8 bits is as a network sees it that was trained with such levels.
    """
    image = read_image(path, levels)
    scale = edge / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(size * scale)) for size in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
