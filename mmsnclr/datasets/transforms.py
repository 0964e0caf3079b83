"""Two views of an image, the same in every run."""

import copy
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.datasets.transforms import MultiView
from mmpretrain.registry import TRANSFORMS

from ..random_state import seeded
from .decoding import middle, read_image
from .image_id import image_id


def transforms_of(dataset: object) -> Iterator[BaseTransform]:
    """Every transform of a data set's pipeline, and of those of data sets inside it."""
    yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    for inner in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if inner is not None:
            yield from transforms_of(inner)


class SeededTransform(BaseTransform):
    """Makes views that are seeded by seed, epoch, image and view.

    What a view looks like depends on nothing else: not on the worker that makes
    it, nor on what that worker did before. A resumed run therefore sees the
    views that it would have seen without the interruption. Seed and epoch come
    from :class:`~mmsnclr.engine.hooks.ViewSeedHook`; without it, and for images with
    neither path nor index, views are random.
    """

    def __init__(self) -> None:
        super().__init__()
        # Shared, so that workers which outlive an epoch see the next one.
        self._seed_and_epoch = torch.tensor([-1, -1]).share_memory_()

    def set_epoch(self, seed: int, epoch: int) -> None:
        """Set by which seed and epoch the views are seeded, here and in running workers."""
        self._seed_and_epoch[0] = seed
        self._seed_and_epoch[1] = epoch

    def view_seed(self, results: dict, view: int) -> int:
        """Seed of one view of an image, 32 bits.

        Args:
            results: Holds the image's path or index.
            view: Number of the view.

        Returns:
            The seed; without an epoch or an identity, one drawn by numpy, whose
            generator every worker seeds differently.
        """
        seed, epoch = self._seed_and_epoch.tolist()
        image = image_id(results)
        if epoch < 0 or image is None:
            return int(np.random.randint(2**32, dtype=np.uint64))
        name = f'{seed} {epoch} {image} {view}'
        return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), 'little')


@TRANSFORMS.register_module()
class SeededMultiView(SeededTransform):
    """mmpretrain's ``MultiView`` of any transforms, seeded (:class:`SeededTransform`).

    Args:
        transforms: One pipeline for each kind of view.
        num_views: How many views each pipeline makes.
    """

    def __init__(self, transforms: list[list[dict]], num_views: int | list[int]) -> None:
        super().__init__()
        self.pipelines = MultiView(transforms, num_views).transforms

    def transform(self, results: dict) -> dict:
        """Make the views.

        Args:
            results: Holds ``img``, ``(H, W, 3)`` uint8, and its path or index.

        Returns:
            The same, ``img`` being the list of views.
        """
        views = []
        for view, pipeline in enumerate(self.pipelines):
            with seeded(self.view_seed(results, view)):
                views.append(pipeline(copy.deepcopy(results))['img'])
        results['img'] = views
        return results


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """Loads an image as the scan has seen it, in the place of ``LoadImageFromFile``.

    Args:
        levels: See :func:`~mmsnclr.datasets.decoding.to_rgb`.
    """

    def __init__(self, levels: tuple[int, int] | None = None) -> None:
        self.levels = levels

    def transform(self, results: dict) -> dict:
        """Load.

        Args:
            results: Holds ``img_path``, or ``img`` already, ``(H, W, 3)`` uint8 BGR, as
                mmpretrain's inferencer gives it.

        Returns:
            The same with ``img``; of a very long one the middle.

        Raises:
            OSError, ValueError: If the image cannot be read.
        """
        image = results.get('img')
        image = middle(read_image(results['img_path'], self.levels) if image is None else image)
        shape = image.shape[:2]
        return results | dict(img=image, img_shape=shape, ori_shape=shape)
