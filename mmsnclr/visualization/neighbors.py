"""Queries, their nearest neighbours and their positiveness, as the paper's figure 3."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from mmcv import imread
from torch.utils.data import DataLoader

from ..evaluation import extract_features
from ..models import SNCLR, NeighborQueue
from ..models.snclr_loss import Candidates


@torch.no_grad()
def draw_neighbors(
    model: SNCLR,
    loader: DataLoader,
    path: str | Path,
    queries: int = 8,
    shown: int = 10,
    seed: int = 0,
) -> Path:
    """Draw random images with their nearest neighbours among the others.

    Neighbours are found with the momentum branch (Eq. 3) and weighted by their
    positiveness (Eq. 4), which is shown relative to the row's highest. Where
    labels exist, a neighbour's frame tells whether it is of the query's class.

    Args:
        model: A trained SNCLR model.
        loader: Yields images in mmpretrain's format, unshuffled, with the
            paths in ``loader.dataset``.
        path: Picture to write.
        queries: Number of rows.
        shown: Number of neighbours in a row, of the K that the head weighs.
        seed: Seed of the choice of queries.

    Returns:
        The picture's path.

    Raises:
        ValueError: If there are no more images than neighbours.
    """
    keys, labels = extract_features(model, loader, model.momentum_encoder, progress=False)
    projections, _ = extract_features(
        model, loader, lambda x: model.neck(model.backbone(x)), progress=False
    )
    k = model.head.neighbors
    if len(keys) <= k:
        raise ValueError(f'{k} neighbours (model.head.neighbors) need more than {len(keys)} images')
    rows = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))[:queries]
    candidates = NeighborQueue(len(keys), keys.size(1))
    candidates.enqueue(keys, torch.arange(len(keys)))
    index, _, valid = candidates.search(candidates.features[rows], rows, k)
    found = Candidates(candidates.features, torch.ones(len(keys)), index, valid)
    device = next(model.parameters()).device
    log_weights = model.head.log_weights(
        projections[rows].to(device), Candidates(*(x.to(device) for x in found))
    ).cpu()
    shares = (log_weights - log_weights.amax(dim=1, keepdim=True)).exp()
    shown = min(shown, k)

    figure = Figure((1.1 * (shown + 1), 1.35 * len(rows)), layout='constrained')
    axes = figure.subplots(len(rows), shown + 1, squeeze=False)
    for row, query in enumerate(rows.tolist()):
        images = [query, *index[row, :shown].tolist()]
        for column, (image, axis) in enumerate(zip(images, axes[row])):
            axis.imshow(
                imread(loader.dataset.get_data_info(image)['img_path'], channel_order='rgb')
            )
            axis.set(xticks=[], yticks=[])
            title = 'query' if column == 0 else f'{shares[row, column - 1]:.2f}'
            axis.set_title(title, fontsize=8, pad=2)
            if labels is not None and column > 0:
                same = labels[image] == labels[query]
                for spine in axis.spines.values():
                    spine.set(
                        color='tab:green' if same else 'tab:red',
                        linestyle='-' if same else ':',
                        linewidth=2.5,
                    )
    legend = (
        f'Nearest of {len(keys) - 1} images; number: positiveness, the highest of a row being 1'
    )
    if labels is not None:
        legend += "\nframe: solid green if of the query's class, dotted red if not"
    figure.suptitle(legend, fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
