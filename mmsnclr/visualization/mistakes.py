"""A page of what a classifier is most wrong about."""

from pathlib import Path

from ..evaluation.classification import Predictions
from .neighbors import thumbnail
from .pages import data_uri, write_page

_MOST = 60


def write_mistakes_page(
    predictions: Predictions,
    classes: list[str],
    path: str | Path,
    levels: tuple[int, int] | None = None,
) -> Path:
    """Write the images that are taken for another class, the surest first, as one HTML page.

    Args:
        predictions: What was predicted.
        classes: Names of the classes.
        path: Page to write.
        levels: Values of black and white of images with more than 8 bits, as the classifier
            sees them.

    Returns:
        The page's path.
    """
    scores, found = predictions.scores.max(dim=1)
    wrong = (found != predictions.labels).nonzero().flatten().tolist()
    worst = sorted(wrong, key=lambda number: -scores[number])[:_MOST]
    images = [
        dict(
            picture=data_uri(thumbnail(predictions.paths[number], 160, levels)),
            name=predictions.paths[number],
            file=Path(predictions.paths[number]).name,
            found=classes[found[number]],
            score=float(scores[number]),
            label=classes[predictions.labels[number]],
            label_score=float(predictions.scores[number, predictions.labels[number]]),
        )
        for number in worst
    ]
    about = f'{len(wrong)} of {len(predictions.paths)} images are taken for another class.'
    if len(wrong) > _MOST:
        about += f' These are the {_MOST} of which the classifier is surest.'
    title = 'The worst mistakes'
    return write_page(path, 'mistakes.html', title=title, about=about, images=images)
