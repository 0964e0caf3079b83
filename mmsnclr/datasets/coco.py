"""A set in COCO's format: read, matched with another, split."""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

CROWDS = 'iscrowd, ignore or difficult is 1'  # what makes them


class CocoSet(NamedTuple):
    """A set in COCO's format.

    Attributes:
        content: ``images``, ``annotations`` and ``categories``.
        file: The annotation file.
        images: Folder that its file names start from.
    """

    content: dict
    file: Path
    images: Path

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return [self.images / image['file_name'] for image in self.content['images']]


def read_coco(ann_file: str | Path) -> dict:
    """Read an annotation file, in UTF-8, UTF-16 or UTF-32.

    Ids become whole numbers or else, where they are of several kinds, texts.
    Of categories that are there twice, one is kept.

    Args:
        ann_file: The json file.

    Returns:
        Its content; images and annotations are not checked.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is not in COCO's format at all, or its categories
            are ambiguous.
    """
    content = read_lists(ann_file, ('images', 'annotations', 'categories'))
    _unify_ids(content['images'], content['annotations'], 'image_id')
    _unify_ids(content['categories'], content['annotations'], 'category_id')
    content['categories'] = distinct_categories(content, ann_file)
    return content


def read_lists(ann_file: str | Path, names: tuple[str, ...]) -> dict:
    """A json file's content, which has lists of entries under these names.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_coco`.
    """
    if not Path(ann_file).is_file():
        raise FileNotFoundError(f'no annotation file at {str(ann_file)!r}')
    try:
        content = json.loads(Path(ann_file).read_bytes())
    except (ValueError, RecursionError) as error:  # the latter if it is nested too deep
        raise ValueError(f'{ann_file} is no json file: {error}') from error
    for name in names:
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise ValueError(f"{ann_file} is not in COCO's format: it has no list {name!r}")
    return content


def read_image_ids(ann_file: str | Path) -> list[tuple[str, int | str | None]]:
    """File name and id of each image in an annotation file, which need not have annotations.

    Raises:
        ValueError: If the file is not in COCO's format.
    """
    images = read_lists(ann_file, ('images',))['images']
    return [(str(image.get('file_name')), as_id(image.get('id'))) for image in images]


def as_id(value: Any) -> int | str | None:
    """An id as a whole number or a text, ``None`` if it is neither; 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _unify_ids(entries: list[dict], annotations: list[dict], key: str) -> None:
    """Give entries, and annotations that refer to them, ids that numpy sorts without loss."""
    holders = [(entry, 'id') for entry in entries] + [(entry, key) for entry in annotations]
    holders = [(e, k, as_id(e.get(k))) for e, k in holders if as_id(e.get(k)) is not None]
    own = [value for _, k, value in holders if k == 'id']
    whole = [isinstance(value, int) and abs(value) < 2**53 for value in own]
    for entry, k, value in holders:
        entry[k] = value if all(whole) else str(value)


def distinct_categories(content: dict, ann_file: str | Path) -> list[dict]:
    """The categories, each id and name once; of those alike in name the one in use.

    Raises:
        ValueError: If they are ambiguous; ``ann_file`` is named in it.
    """
    kept: dict[int | str, dict] = {}
    for category in content['categories']:
        if isinstance(category.get('name'), int | float):
            category['name'] = str(category['name'])
        if isinstance(category.get('name'), str):  # json can hold halves of characters
            category['name'] = category['name'].encode(errors='replace').decode()
        number, name = as_id(category.get('id')), category.get('name')
        if number is None or not isinstance(name, str) or not name:
            raise ValueError(f'{ann_file}: category {category} needs an id and a name')
        if kept.setdefault(number, category)['name'] != name:
            raise ValueError(
                f'{ann_file}: each category needs an id of its own, unlike '
                f'{kept[number]["name"]!r} and {name!r}, which share {number!r} (as a number or a '
                'text)'
            )
    if not kept:
        raise ValueError(f'{ann_file}: each annotation needs a category, and there is none')
    used = {as_id(annotation.get('category_id')) for annotation in content['annotations']}
    alike = defaultdict(list)
    for number, category in kept.items():
        alike[category['name']].append(number)
    for name, numbers in alike.items():
        in_use = [number for number in numbers if number in used]
        if len(in_use) > 1:
            raise ValueError(
                f'{ann_file}: each category needs a name of its own, unlike {name!r}, '
                f'which annotations have under the ids {in_use}'
            )
        for number in set(numbers) - {*in_use, *(() if in_use else numbers[:1])}:
            del kept[number]
    return list(kept.values())


def category_names(content: dict) -> dict[int | str, str]:
    """Name of each category id."""
    return {category['id']: category['name'] for category in content['categories']}


def match_categories(train: dict, val: dict, train_json: str | Path, val_json: str | Path) -> dict:
    """Give a validation set the training set's categories, which are matched by their names.

    Args:
        train: The training set's content.
        val: The validation set's; it need not have every category.
        train_json: Named in errors.
        val_json: The same.

    Returns:
        The validation set's content with the other's categories.

    Raises:
        ValueError: If its annotations have a category that the training set lacks.
    """
    names = category_names(val)
    ids = {name: number for number, name in category_names(train).items()}
    annotations = val['annotations']
    unknown = sorted({names[a['category_id']] for a in annotations} - ids.keys())
    if unknown:
        raise ValueError(
            f'{val_json} has other categories than {train_json}: {unknown[:5]} are not among '
            f'{list(ids)[:10]}; names must be the same'
        )
    matched = [a | dict(category_id=ids[names[a['category_id']]]) for a in annotations]
    return val | dict(annotations=matched, categories=train['categories'])


def levels_of(content: dict) -> tuple[int, int] | None:
    """Values of black and white of a set's images with more than 8 bits, if it has such."""
    levels = content.get('info', {}).get('levels')
    return tuple(levels) if levels else None


def objects_of(content: dict) -> tuple[list[dict], list[dict]]:
    """The images of a set with single objects, and their annotations; crowds are left out."""
    objects = [ann for ann in content['annotations'] if not ann['iscrowd']]
    having = {ann['image_id'] for ann in objects}
    return [image for image in content['images'] if image['id'] in having], objects


def describe_crowds(content: dict, file: str) -> str:
    """What a set's crowds come to, a line; nothing if it has none."""
    annotations = content['annotations']
    crowds = len(annotations) - len(objects_of(content)[1])
    if not crowds:
        return ''
    return (
        f'{file}: {crowds} of {len(annotations)} annotations are crowds ({CROWDS}): '
        'regions that are not learned, and in which detections do not count. An object in several '
        'pieces is none: set its iscrowd to 0'
    )


def mask_crowds(content: dict) -> dict:
    """A set whose crowds without a mask have their box as one; Mask R-CNN asks it of each."""

    def masked(ann: dict) -> dict:
        left, top, width, height = ann['bbox']
        right, bottom = left + width, top + height
        return ann | dict(segmentation=[[left, top, right, top, right, bottom, left, bottom]])

    return content | dict(
        annotations=[
            masked(ann) if ann['iscrowd'] and 'segmentation' not in ann else ann
            for ann in content['annotations']
        ]
    )


def split_coco(content: dict, share: float, seed: int) -> tuple[dict, dict]:
    """Split a set by images, at random; those with objects alone are drawn for validation.

    Args:
        content: A set in COCO's format.
        share: Share of the images with objects to validate on; one at least.
        seed: Seed of the draw.

    Returns:
        The training and the validation set.

    Raises:
        ValueError: If fewer than two images have objects.
    """
    annotated = sorted({ann['image_id'] for ann in objects_of(content)[1]}, key=str)
    if len(annotated) < 2:
        raise ValueError(
            f'{len(annotated)} images have annotations, too few to set some aside for '
            'validation: add images or pass a validation set (--val)'
        )
    drawn = set(random.Random(seed).sample(annotated, max(1, round(share * len(annotated)))))

    def part(inside: bool) -> dict:
        return content | dict(
            images=[i for i in content['images'] if (i['id'] in drawn) == inside],
            annotations=[a for a in content['annotations'] if (a['image_id'] in drawn) == inside],
        )

    return part(False), part(True)
