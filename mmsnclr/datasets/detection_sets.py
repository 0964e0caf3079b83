"""The sets that a detector learns from and is measured on: read, checked, split."""

import os
from collections import Counter
from pathlib import Path

from ..console import say
from .coco import (
    CROWDS,
    CocoSet,
    category_names,
    describe_crowds,
    distinct_categories,
    levels_of,
    match_categories,
    objects_of,
    read_coco,
    split_coco,
)
from .coco_check import Mistake, check_content, describe_mistakes
from .label_files import LabelFiles
from .voc import read_voc
from .yolo import find_description, read_yolo

_VAL_SHARE = 0.2


def read_sets(
    train: str | Path,
    images: str | Path | None,
    val: str | Path | None,
    val_images: str | Path | None,
    out: Path,
    skip_bad: bool,
    seed: int,
) -> tuple[CocoSet, CocoSet]:
    """Read and check the training and the validation set.

    Args:
        train: A json file in COCO's format; data.yaml or the folder of a YOLO set; or Pascal
            VOC's folder of xml files.
        images: Folder that its file names start from; YOLO and VOC sets tell it themselves.
        val: The same to validate on; by default what the training set's files name for it, or
            else a part of it that is drawn.
        val_images: Folder of its file names; by default ``images``, if it is a json file.
        out: Folder that the sets are to be written into, and a list of many mistakes.
        skip_bad: Whether to leave wrong images and annotations out.
        seed: Seed of the draw.

    Returns:
        The two sets, whose files are not written yet.

    Raises:
        FileNotFoundError: If a file or folder is not there.
        ValueError: If annotations are wrong, or a set has no objects.
    """
    folders = _folder(images, 'images'), _folder(val_images, 'val_images')
    parts = _read(Path(train), folders[0], folders[0], 'images')
    read, files = [parts['train']], [Path(train)]
    if val is not None:
        if 'val' in parts:
            say(f'What {train} names to validate on is not learned from, nor used: --val is given')
        parts = _read(Path(val), folders[1], folders[1] or folders[0], 'val_images')
        read.append(parts.get('val', parts['train']))
        files.append(Path(val))
    elif 'val' in parts:
        read.append(parts['val'])
        files.append(Path(train))
    names = _tell_apart(files)
    checked = [_check(*part) for part in zip(read, files, names)]
    mistakes = [mistake for _, found in checked for mistake in found]
    if mistakes:
        text = describe_mistakes(mistakes, out / 'mistakes.csv')
        if any(mistake.fatal for mistake in mistakes) and not skip_bad:
            raise ValueError(f'{text}\nMend them, or leave these annotations out by --skip-bad')
        say(text)
    for name, part, (content, found) in zip(names, read, checked):
        _check_objects(content, found, name)
        if part.origins:
            _tell(content, name)
    contents = [content for content, _ in checked]
    if levels := levels_of(contents[0]):
        low, high = levels
        say(f'Images with more than 8 bits: values from {low:,} to {high:,} are black to white')
    if len(contents) == 1:
        contents = split_coco(contents[0], _VAL_SHARE, seed)
        count = len(contents[1]['images'])
        say(f'No --val: {count} of the images were drawn to validate on (seed {seed})')
    else:
        contents[1] = match_categories(contents[0], contents[1], files[0], files[1])
    sets = (
        CocoSet(contents[0], out / 'train.json', read[0].images),
        CocoSet(contents[1], out / 'val.json', read[-1].images),
    )
    _tell_shared(*sets)
    if any(part.origins for part in read):
        say(f"In COCO's format they are written to {sets[0].file} and {sets[1].file}")
    return sets


def _folder(images: str | Path | None, name: str) -> Path | None:
    folder = Path(images).resolve() if images is not None else None
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f'{name}={str(folder)!r} is not a folder')
    return folder


def _read(
    source: Path, given: Path | None, folder: Path | None, name: str
) -> dict[str, LabelFiles]:
    """The parts that a source has, told apart by what is there; ``'train'`` is always one.

    The folder of images is ``folder`` for a json file, and what was ``given`` for other sets.
    """
    description = find_description(source)
    if description:
        return read_yolo(description.absolute(), given)
    if source.is_dir():
        return read_voc(source.absolute(), given)
    if not source.is_file():
        raise FileNotFoundError(f'no annotation file at {str(source)!r}')
    if folder is None:
        raise ValueError(
            f"{source}: pass the folder that its file names start from, too ({name}); a YOLO set's "
            'data.yaml and a folder of xml files (Pascal VOC) go without'
        )
    try:
        return dict(train=LabelFiles(read_coco(source), folder, {}, []))
    except ValueError as error:
        if source.suffix.lower() == '.json':
            raise
        raise ValueError(
            f"{source} is neither a json file in COCO's format, nor the data.yaml of a YOLO set, "
            'nor a folder of xml files (Pascal VOC)'
        ) from error


def _tell_apart(files: list[Path]) -> list[str]:
    """What the sources are called; two parts of one, and files of one name, differently."""
    if len(set(files)) < len(files):
        return [f'{files[0].name} (train)', f'{files[0].name} (val)']
    short = [file.name for file in files]
    return short if len(set(short)) == len(short) else list(map(str, files))


def _check(part: LabelFiles, source: Path, name: str) -> tuple[dict, list[Mistake]]:
    """The content without what is wrong, and the mistakes by the files that they are in."""
    if part.content['categories'] or not part.mistakes:  # which may be why there is none
        part.content['categories'] = distinct_categories(part.content, source)
    content, found = check_content(part.content, source, part.images)
    found = [mistake._replace(file=part.origins.get(mistake.image, name)) for mistake in found]
    return content, part.mistakes + found


def _tell(content: dict, source: str) -> None:
    """Tell what was read from label files, so that classes that are spelt wrong are seen."""
    names, (having, objects) = category_names(content), objects_of(content)
    counts = Counter(names[one['category_id']] for one in objects)
    listed = ', '.join(f'{name} {count}' for name, count in counts.most_common(20))
    count = len(content['images'])
    without = f' ({count - len(having)} without objects)' if len(having) < count else ''
    say(f'{source}: {count} images{without}, {len(objects)} objects: {listed}')
    masks = [one['segmentation'] for one in objects if 'segmentation' in one]
    if masks and all(list(map(len, mask)) == [8] for mask in masks):
        say(
            f'{source}: all of its {len(masks)} polygons have 4 corners, as turned boxes (OBB) '
            'have: they are learned as masks, beside upright boxes around them'
        )


def _tell_shared(train: CocoSet, val: CocoSet) -> None:
    """Tell of images that are both learned and validated on."""
    learned, measured = (
        {os.path.abspath(part.images / image['file_name']) for image in part.content['images']}
        for part in (train, val)
    )
    if shared := learned & measured:
        say(
            f'{len(shared)} of {len(measured)} images to validate on are learned, too, so that '
            f'measures will be too good, such as {min(shared)}'
        )


def _check_objects(content: dict, mistakes: list[Mistake], file: str) -> None:
    """Refuse a set without objects, and say why it has none; tell of its crowds."""
    annotations = content['annotations']
    if not annotations:
        left_out = any(mistake.annotation is not None for mistake in mistakes)
        why = 'none of its annotations can be used' if left_out else 'it has no annotations'
    elif not objects_of(content)[1]:
        why = f'all of its {len(annotations)} annotations are crowds ({CROWDS})'
    else:
        crowds = describe_crowds(content, file)
        return say(crowds) if crowds else None
    raise ValueError(f'{file}: {why}; what is learned and measured are single objects')
