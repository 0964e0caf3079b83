"""Pictures made from scikit-learn's handwritten digits, for the demo and the tests.

Gray digits on a gray ground with mild noise: colour or clutter would let a
network tell pictures apart without looking at the digits.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

CLASSES = tuple(str(digit) for digit in range(10))


def write_digits(
    root: str | Path,
    unlabelled: int = 4000,
    labelled: tuple[int, int] = (2000, 1000),
    scenes: tuple[int, int] = (200, 100),
    seed: int = 0,
) -> Path:
    """Write the pictures and annotations.

    Training and validation pictures show different handwritten digits.
    The layout is ``unlabelled/*.png``; ``labelled/{train,val}/<digit>/*.png``;
    ``scenes/{train,val}/*.png`` with ``scenes/{train,val}.json`` in COCO's
    format. Pictures of one digit are 64 x 64 pixels, scenes 128 x 128.

    Args:
        root: Folder to write into.
        unlabelled: Number of unlabelled pictures.
        labelled: Numbers of labelled training and validation pictures.
        scenes: Numbers of training and validation scenes.
        seed: Seed of everything random.

    Returns:
        The folder.
    """
    root = Path(root)
    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    parts = dict(train=order[:1297], val=order[1297:])

    for number, (picture, _) in enumerate(_pictures(rng, digits, parts['train'], unlabelled)):
        _write(root / 'unlabelled' / f'{number:05d}.png', picture)
    for (part, source), count, scene_count in zip(parts.items(), labelled, scenes):
        for number, (picture, digit) in enumerate(_pictures(rng, digits, source, count)):
            _write(root / 'labelled' / part / str(digit) / f'{number:05d}.png', picture)
        _write_scenes(root / 'scenes', part, rng, digits, source, scene_count)
    return root


def _pictures(
    rng: np.random.Generator, digits: Bunch, source: np.ndarray, count: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Pictures of one digit each, and which digit it is."""
    for index in rng.choice(source, count):
        size = rng.uniform(36, 60)
        centre = rng.uniform(size * 0.5, 64 - size * 0.5, 2)
        ink = _ink(rng, digits.images[index], size, centre, 64)
        yield _render(rng, ink), int(digits.target[index])


def _write_scenes(
    folder: Path,
    part: str,
    rng: np.random.Generator,
    digits: Bunch,
    source: np.ndarray,
    count: int,
) -> None:
    images: list[dict] = []
    annotations: list[dict] = []
    for number in range(count):
        scene = np.zeros((128, 128), np.float32)
        for index in rng.choice(source, rng.integers(3, 7)):
            size = rng.uniform(28, 52)
            ink = _ink(rng, digits.images[index], size, rng.uniform(18, 110, 2), 128)
            shape = (ink > 0.3).astype(np.uint8)
            if (cv2.dilate(shape, np.ones((5, 5))) * scene).any():
                continue  # no digit touches another
            contours, _ = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            polygons = [c.flatten().tolist() for c in contours if len(c) >= 4]
            if not polygons:
                continue
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=int(digits.target[index]) + 1,
                    bbox=list(cv2.boundingRect(shape)),
                    area=int(shape.sum()),
                    segmentation=polygons,
                    iscrowd=0,
                )
            )
            scene = np.maximum(scene, ink)
        name = f'{number:05d}.png'
        images.append(dict(id=number, file_name=name, width=128, height=128))
        _write(folder / part / name, _render(rng, scene))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / f'{part}.json').write_text(json.dumps(content), 'utf-8')


def _ink(
    rng: np.random.Generator, digit: np.ndarray, size: float, centre: np.ndarray, canvas: int
) -> np.ndarray:
    """One digit at a size, place and random rotation: 0 for ground, 1 for ink."""
    zoomed = cv2.resize(
        np.pad(digit, 1).astype(np.float32), (60, 60), interpolation=cv2.INTER_CUBIC
    )
    matrix: np.ndarray = cv2.getRotationMatrix2D((29.5, 29.5), rng.uniform(-20, 20), size / 60)
    matrix[:, 2] += centre - 29.5
    return cv2.warpAffine(zoomed, matrix, (canvas, canvas), flags=cv2.INTER_LINEAR).clip(0, 16) / 16


def _render(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """Ink of random contrast on a ground of random brightness, with mild noise."""
    ground = rng.uniform(40, 90)
    picture = ground + ink * rng.uniform(80, 160) + rng.normal(0, 5, ink.shape)
    return picture.clip(0, 255).astype(np.uint8)


def _write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)
