"""Representations of a whole data set."""

from collections.abc import Callable

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.utils.data import DataLoader

from ..console import track
from ..models.backbone import pooled


@torch.no_grad()
def extract_features(
    model: BaseModel,
    loader: DataLoader,
    encode: Callable[[Tensor], tuple[Tensor, ...]] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Represent every image of a loader.

    Args:
        model: An mmpretrain model; gives the preprocessing and the device.
        loader: Yields batches in mmpretrain's format.
        encode: Maps images to features; the model's backbone by default.

    Returns:
        Features ``(N, C)``, maps averaged over space, and labels ``(N,)``,
        ``None`` if the images have none. Both lie on the CPU.
    """
    encode = encode or model.backbone
    was_training = model.training
    model.eval()
    features, labels = [], []
    for batch in track(loader, 'Representing images'):
        batch = model.data_preprocessor(batch, False)
        features.append(pooled(encode(batch['inputs'])).float().cpu())
        labels += [s.gt_label.cpu() for s in batch['data_samples'] if 'gt_label' in s]
    model.train(was_training)
    return torch.cat(features), torch.cat(labels) if labels else None
