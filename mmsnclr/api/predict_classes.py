"""Classify images by a trained classifier."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dataset import Compose, default_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS, TRANSFORMS
from torch import Tensor

from ..checkpoints import Stored
from ..console import say, track
from ..datasets.listing import list_images
from ..evaluation.classification import Predictions, write_predictions

_BATCH = 32


def predict_classes(
    stored: Stored,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    image_root: str | Path | None = None,
) -> list[dict]:
    """Classify images, and write ``predictions.csv``.

    Args:
        stored: A classifier that :func:`mmsnclr.api.classify.classify` trained, or another
            of mmpretrain's ``ImageClassifier``.
        images: Folders, text files with paths, COCO json files or image files.
        out: Folder that receives the csv: path, likeliest class, its probability, and a
            column of probabilities for each class.
        image_root: Folder from which paths in text and json files are meant;
            by default the folder of the file.

    Returns:
        ``path``, ``class`` and ``score`` of each image.

    Raises:
        FileNotFoundError: If an image is not there.
        ValueError: If no image can be read, or ``out`` has predictions.
    """
    path = Path(out) / 'predictions.csv'
    if path.exists():
        raise ValueError(f'out={str(out)!r} holds predictions already: choose another folder')
    paths = list_images(images, image_root)
    model, pipeline = _load(stored)
    classes = list(stored.meta['dataset_meta']['classes'])
    read, scores, unreadable = [], [], []
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    for batch in track(batches, 'Classifying images'):
        packed = {str(image): _pack(pipeline, image) for image in batch}
        unreadable += [image for image, inputs in packed.items() if inputs is None]
        packed = {image: inputs for image, inputs in packed.items() if inputs is not None}
        read += packed
        if packed:
            scores.append(_score(model, list(packed.values())))
    if not read:
        raise ValueError(
            f'none of the {len(paths)} images can be read, the first {unreadable[0]!r}'
        )
    found = Predictions(read, None, torch.cat(scores))
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = write_predictions(found, classes, path)
    if unreadable:
        count = f'{len(unreadable)} of {len(paths)} images'
        say(f'{count} cannot be read and were left out: {", ".join(unreadable[:5])}')
    say(f'{len(read)} images classified; wrote {path}')
    return rows


def _load(stored: Stored) -> tuple[ImageClassifier, Compose]:
    """The classifier with its weights, and what it makes of a file before it looks at it."""
    cfg = stored.config
    model_cfg = cfg.model.to_dict()
    model_cfg['backbone'].pop('init_cfg', None)
    model_cfg.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = revert_sync_batchnorm(MODELS.build(model_cfg))
        steps = [TRANSFORMS.build(step) for step in cfg.test_dataloader.dataset.pipeline]
    model.load_state_dict(stored.weights)
    model.to('cuda' if torch.cuda.is_available() else 'cpu')
    model.eval()  # returns nothing in mmpretrain
    return model, Compose(steps)


def _pack(pipeline: Compose, path: Path) -> dict | None:
    """An image as the classifier takes it, ``None`` if it cannot be read."""
    try:
        return pipeline(dict(img_path=str(path)))
    except (OSError, ValueError):
        return None


@torch.no_grad()
def _score(model: ImageClassifier, packed: list[dict]) -> Tensor:
    """Probability of each class for each of some images, on the CPU."""
    samples = model.test_step(default_collate(packed))
    return torch.stack([sample.pred_score for sample in samples]).float().cpu()
