"""BYOL's two groups of augmentations, fast: one decode, cropped before all else."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.queues import Queue
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
from mmengine import fileio
from mmengine.config import Config
from mmpretrain.registry import TRANSFORMS
from torch.nn import functional as F

from .decoding import decode, decode_any, plain_header
from .transforms import SeededTransform

_AUGMENTED = ('AugmentedViews', 'AugmentedImage')  # transforms, as configs name them


@dataclass
class View:
    """How one view of an image is drawn; the defaults are BYOL's first group.

    Attributes:
        size: Edge of the view, in pixels.
        crop_scale: Range of the crop's share of the image's area.
        crop_aspect: Range of the crop's width over height.
        flip_prob: Probability of a horizontal flip.
        jitter_prob: Probability of colour jitter.
        brightness: Jitter's factor is drawn from ``1 - brightness`` to
            ``1 + brightness``; ``contrast`` and ``saturation`` likewise.
        contrast: See ``brightness``.
        saturation: See ``brightness``.
        hue: The hue's turn is drawn from ``-hue`` to ``hue``, in full circles.
        gray_prob: Probability of losing the colours.
        blur_prob: Probability of a Gaussian blur.
        blur_sigma: Range of its standard deviation, in pixels of the view.
        solarize_prob: Probability of inverting every value from 128 on.

    Raises:
        ValueError: If a value is out of its domain.
    """

    size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    jitter_prob: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray_prob: float = 0.2
    blur_prob: float = 1.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_prob: float = 0.0

    def __post_init__(self) -> None:
        bounds = dict(crop_scale=(0, 1), crop_aspect=(0, math.inf), blur_sigma=(0, math.inf))
        for name, (lowest, highest) in bounds.items():
            low, high = getattr(self, name)
            if not lowest < low <= high <= highest:
                raise ValueError(
                    f'{name}=({low}, {high}) must rise, above {lowest} and up to {highest}'
                )
        unit = ('flip', 'jitter', 'gray', 'blur', 'solarize')
        for name in (*(f'{kind}_prob' for kind in unit), 'brightness', 'contrast', 'saturation'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name}={getattr(self, name)} must lie between 0 and 1')
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f'hue={self.hue} must lie between 0 and 0.5')
        if self.size < 1:
            raise ValueError(f'size={self.size} must be at least 1')


# What of views differs from BYOL's, which are for photographs. Without colours, saturation, hue and
# the loss of colours change nothing; solarising does, but gives dark and bright one value, where
# the value is all there is and often a measure (X-ray, heat, depth).
_NO_COLORS = dict(saturation=0.0, hue=0.0, gray_prob=0.0, solarize_prob=0.0)
VIEW_KINDS = {
    'strong': {},
    'gray': _NO_COLORS,
    'weak': _NO_COLORS | dict(jitter_prob=0.0, blur_prob=0.0),
}


@TRANSFORMS.register_module()
class AugmentedViews(SeededTransform):
    """Loads an image and makes its augmented views.

    Takes the place of ``LoadImageFromFile`` and ``MultiView``. Operations and
    the distributions of their parameters are torchvision's, on which BYOL's
    and MoCo v3's pipelines are built (random resized crop with antialiased
    resizing, flip, jitter in random order, grayscale, blur, solarize). It is
    fast because the image is decoded once, a JPEG file no larger than the
    smallest crop needs, and because all else works on the view's pixels as
    8-bit values.

    Views are seeded, see :class:`~mmsnclr.datasets.transforms.SeededTransform`.

    Args:
        views: For each view the settings of :class:`View` that differ from its
            defaults.
        backend_args: mmengine's settings of the storage.
        levels: Values of black and white of images with more than 8 bits, such as the range
            of a set; see :func:`~mmsnclr.datasets.decoding.to_rgb`.
        interpolation: How crops are resized: ``'bicubic'`` as BYOL's, or ``'bilinear'``.

    Raises:
        ValueError: If a setting is out of its domain; on loading, if a file is
            not an image.
    """

    # A queue that gets the path and the error of images that cannot be read, in place of an
    # exception; see UnreadableImagesHook.
    failures: Queue | None = None

    def __init__(
        self,
        views: list[dict],
        backend_args: dict | None = None,
        levels: tuple[int, int] | None = None,
        interpolation: str = 'bicubic',
    ) -> None:
        super().__init__()
        if interpolation not in ('bicubic', 'bilinear'):
            raise ValueError(f"interpolation={interpolation!r} must be 'bicubic' or 'bilinear'")
        if levels is not None and not levels[0] < levels[1]:
            raise ValueError(f'levels={levels} must rise')
        self.levels = levels
        self.interpolation = interpolation
        self.views = [View(**view) for view in views]
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict | None:
        """Load and make the views.

        Args:
            results: Holds ``img_path``, or ``img``, ``(H, W, 3)`` uint8 BGR.

        Returns:
            The same, ``img`` being the list of views, ``(size, size, 3)``;
            ``None`` for an image that cannot be read and was reported.
        """
        try:
            return self._make_views(results)
        except (OSError, ValueError) as error:
            if self.failures is None:
                raise
            self.failures.put((results.get('img_path'), str(error)))
            return None

    def _make_views(self, results: dict) -> dict:
        image: Any = results.get('img')
        divisor, header = 1, None
        if image is None:
            path = results['img_path']
            data = fileio.get(path, backend_args=self.backend_args)
            header = plain_header(data, path)
            if header is None:
                image = decode_any(data, path, self.levels)
        height, width = image.shape[:2] if header is None else header[:2]
        draws = [Random(self.view_seed(results, number)) for number in range(len(self.views))]
        boxes = [crop_box(height, width, view, draw) for view, draw in zip(self.views, draws)]
        if header is not None:
            spare = min(min(box[2:]) // view.size for view, box in zip(self.views, boxes))
            image, divisor = decode(data, spare, header, path)
        results['img'] = [
            augment(resized_crop(image, box, view.size, divisor, self.interpolation), view, draw)
            for view, box, draw in zip(self.views, boxes, draws)
        ]
        results['ori_shape'] = height, width
        results['img_shape'] = results['img'][0].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(views={self.views})'


@TRANSFORMS.register_module()
class AugmentedImage(AugmentedViews):
    """The one view that :class:`AugmentedViews` is told of as an image, for a classifier."""

    def transform(self, results: dict) -> dict | None:
        """As that of :class:`AugmentedViews`, ``img`` being the view itself."""
        results = super().transform(results)
        if results is not None:
            (results['img'],) = results['img']
        return results


def crop_box(height: int, width: int, view: View, draw: Random) -> tuple[int, int, int, int]:
    """Draw a crop as torchvision's ``RandomResizedCrop``: top, left, height and width.

    ``view`` gives the ranges of area and aspect, ``draw`` the randomness.
    """
    low, high = view.crop_aspect
    for _ in range(10):
        area = draw.uniform(*view.crop_scale) * height * width
        aspect = math.exp(draw.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    w, h = min(width, round(height * high)), min(height, round(width / low))
    return (height - h) // 2, (width - w) // 2, h, w


def resized_crop(
    image: np.ndarray,
    box: tuple[int, int, int, int],
    size: int,
    divisor: int = 1,
    interpolation: str = 'bicubic',
) -> np.ndarray:
    """Crop and resize, with antialiasing, to ``(size, size, 3)`` uint8.

    ``box`` (top, left, height, width) counts pixels of the image at full size, which is
    ``divisor`` times that of ``image``, ``(H, W, 3)`` uint8.
    """
    top, left = round(box[0] / divisor), round(box[1] / divisor)
    bottom, right = round((box[0] + box[2]) / divisor), round((box[1] + box[3]) / divisor)
    crop = torch.from_numpy(image[top : max(bottom, top + 1), left : max(right, left + 1)])
    crop = crop.permute(2, 0, 1)[None]
    crop = F.interpolate(crop, (size, size), mode=interpolation, antialias=True)
    return np.ascontiguousarray(crop[0].permute(1, 2, 0).numpy())


def augment(image: np.ndarray, view: View, draw: Random) -> np.ndarray:
    """Flip, jitter, grayscale, blur and solarize ``(H, W, 3)`` uint8 BGR by chance."""
    if draw.random() < view.flip_prob:
        image = cv2.flip(image, 1)
    if draw.random() < view.jitter_prob:
        jitter = [
            (adjust_brightness, draw.uniform(1 - view.brightness, 1 + view.brightness)),
            (adjust_contrast, draw.uniform(1 - view.contrast, 1 + view.contrast)),
            (adjust_saturation, draw.uniform(1 - view.saturation, 1 + view.saturation)),
            (adjust_hue, draw.uniform(-view.hue, view.hue)),
        ]
        draw.shuffle(jitter)
        for operation, amount in jitter:
            image = operation(image, amount)
    if draw.random() < view.gray_prob:
        image = to_gray(image)
    if draw.random() < view.blur_prob:
        image = blur(image, draw.uniform(*view.blur_sigma))
    if draw.random() < view.solarize_prob:
        image = solarize(image)
    return image


_LEVELS = np.arange(256, dtype=np.float32)
_SOLARIZE = np.where(np.arange(256) < 128, np.arange(256), 255 - np.arange(256)).astype(np.uint8)


def _luma(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def _map_levels(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, levels.clip(0, 255).astype(np.uint8))


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black; ``image`` is ``(H, W, 3)`` uint8 BGR, as in all that follow."""
    return _map_levels(image, _LEVELS * factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean gray of the image."""
    means: Any = cv2.mean(_luma(image))
    mean = int(means[0] + 0.5)
    return _map_levels(image, _LEVELS * factor + mean * (1 - factor))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend each pixel with its gray; by 1 it stays as it is."""
    if factor == 1:
        return image
    return cv2.addWeighted(image, factor, to_gray(image), 1 - factor, 0)


def adjust_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by a share of the full circle; by 0 it stays as it is."""
    if turn == 0:  # 8 bits would not come back exactly
        return image
    hsv: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 255) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


def to_gray(image: np.ndarray) -> np.ndarray:
    """Give all three channels the pixel's gray."""
    return cv2.cvtColor(_luma(image), cv2.COLOR_GRAY2BGR)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with a standard deviation in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def solarize(image: np.ndarray) -> np.ndarray:
    """Invert every value from 128 on."""
    return cv2.LUT(image, _SOLARIZE)


def view_size(cfg: Config) -> int:
    """Edge of the views that a config trains with, in pixels; 224 if it does not tell."""
    for step in _dicts(cfg.get('train_dataloader')):
        if step.get('type') in _AUGMENTED:
            return step['views'][0].get('size', 224)
        if step.get('type') in ('RandomResizedCrop', 'ResizeEdge', 'CenterCrop'):
            size = step.get('scale') or step.get('crop_size')  # mmaction2's crops state none
            if size:
                return size if isinstance(size, int) else size[0]
    return 224


def view_levels(cfg: Config) -> tuple[int, int] | None:
    """Values of black and white of images with more than 8 bits that a config trains with."""
    steps = _dicts(cfg.get('train_dataloader'))  # a detector's LoadAnyImage has them, too
    return next((step['levels'] for step in steps if step.get('levels')), None)


def _dicts(node: object) -> Iterable[dict]:
    """All dictionaries in a config, in order."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from _dicts(child)
