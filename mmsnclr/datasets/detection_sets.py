"""The sets that a detector learns from and is measured on: read, checked, split."""

from pathlib import Path

from ..console import say
from .coco import (
    CocoSet,
    describe_crowds,
    match_categories,
    objects_of,
    split_coco,
)
from .coco_check import Mistake, check_coco, describe_mistakes

_VAL_SHARE = 0.2


def read_sets(
    sources: list[tuple[str | Path, str | Path]], out: Path, skip_bad: bool, seed: int
) -> tuple[CocoSet, CocoSet]:
    """Read and check the training and the validation set; the latter is drawn if it is not given.

    Args:
        sources: Annotation file and folder of images, of one set or of both.
        out: Folder that the sets are to be written into, and a list of many mistakes.
        skip_bad: Whether to leave wrong images and annotations out.
        seed: Seed of the draw.

    Returns:
        The two sets, whose files are not written yet.

    Raises:
        FileNotFoundError: If a file or folder is not there.
        ValueError: If annotations are wrong, or a set has no objects.
    """
    folders = [Path(folder).resolve() for _, folder in sources]
    for name, folder in zip(('images', 'val_images'), folders):
        if not folder.is_dir():
            raise FileNotFoundError(f'{name}={str(folder)!r} is not a folder')
    checked = [check_coco(file, folder) for (file, _), folder in zip(sources, folders)]
    mistakes = [mistake for _, found in checked for mistake in found]
    if mistakes:
        text = describe_mistakes(mistakes, out / 'mistakes.csv')
        if any(mistake.fatal for mistake in mistakes) and not skip_bad:
            raise ValueError(f'{text}\nMend them, or leave these annotations out by --skip-bad')
        say(text)
    for (file, _), (content, found) in zip(sources, checked):
        _check_objects(content, found, file)
    contents = [content for content, _ in checked]
    if len(sources) == 1:
        contents = split_coco(contents[0], _VAL_SHARE, seed)
        count = len(contents[1]['images'])
        say(f'No --val: {count} of the images were drawn to validate on (seed {seed})')
    else:
        contents[1] = match_categories(*contents, *(file for file, _ in sources))
    train, val = contents
    return (
        CocoSet(train, out / 'train.json', folders[0]),
        CocoSet(val, out / 'val.json', folders[-1]),
    )


def _check_objects(content: dict, mistakes: list[Mistake], file: str | Path) -> None:
    """Refuse a set without objects, and say why it has none; tell of its crowds."""
    annotations = content['annotations']
    if not annotations:
        left_out = any(mistake.annotation is not None for mistake in mistakes)
        why = 'none of its annotations can be used' if left_out else 'it has no annotations'
    elif not objects_of(content)[1]:
        why = f'all of its {len(annotations)} annotations are crowds (iscrowd or ignore is 1)'
    else:
        crowds = describe_crowds(content, Path(file).name)
        return say(crowds) if crowds else None
    raise ValueError(f'{file}: {why}; what is learned and measured are single objects')
