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
from ..datasets.loading_errors import UNREADABLE
from ..datasets.scan import tell_of_unreadable
from ..evaluation.classification import write_predictions


def predict_classes(
    stored: Stored,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    image_root: str | Path | None = None,
    batch: int = 32,
) -> list[dict]:
    """Classify images, and write ``predictions.csv``.

    Args:
        stored: A classifier that :func:`mmsnclr.api.classify.classify` trained, or another
            of mmpretrain's ``ImageClassifier``.
        images: As for :func:`~mmsnclr.datasets.listing.list_images`.
        out: Folder that receives the csv: path, likeliest class, its probability, and a
            column of probabilities for each class; and ``left_out.csv`` if images cannot be read.
        image_root: Folder from which paths in text and json files are meant;
            by default the folder of the file.
        batch: Images that are looked at at once.

    Returns:
        ``path``, ``class`` and ``score`` of each image.

    Raises:
        FileNotFoundError: If an image is not there.
        ValueError: If no image can be read.
    """
    paths = list_images(images, image_root)
    model, pipeline = _load(stored)
    classes = list(stored.meta['dataset_meta']['classes'])
    read: list[str] = []
    scores, unreadable = [], []
    chunks = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    for chunk in track(chunks, 'Classifying images'):
        packed = {}
        for image in chunk:
            try:
                packed[str(image)] = pipeline(dict(img_path=str(image)))
            except UNREADABLE as error:
                unreadable.append((image, str(error)))
        read += packed
        if packed:
            scores.append(_score(model, list(packed.values())))
    out = Path(out)
    tell_of_unreadable(out, unreadable, len(paths))
    out.mkdir(parents=True, exist_ok=True)
    path = out / 'predictions.csv'
    rows = write_predictions(path, classes, read, torch.cat(scores))
    say(f'{len(read)} images classified; wrote {path}')
    return rows


def _load(stored: Stored) -> tuple[ImageClassifier, Compose]:
    """The classifier with its weights, and what it makes of a file before it looks at it."""
    cfg = stored.config
    if cfg is None or not cfg.get('test_dataloader'):
        raise ValueError(
            f'checkpoint={str(stored.path)!r} does not tell how its images are loaded '
            '(test_dataloader): pass a classifier that `classify` trained'
        )
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


@torch.no_grad()
def _score(model: ImageClassifier, packed: list[dict]) -> Tensor:
    """Probability of each class for each of some images, on the CPU."""
    samples = model.test_step(default_collate(packed))
    return torch.stack([sample.pred_score for sample in samples]).float().cpu()
