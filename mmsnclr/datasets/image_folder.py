"""Images in a folder and in the tars in it."""

import os
from typing import Any

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from .listing import image_paths, read_labels


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Images in a folder, in its subfolders and in tars that lie there.

    It can take the place of mmpretrain's ``ImageNet`` by its type alone: of files it finds the
    same in the same order. Tars of the same images, extracted to folders of their names, are
    alike too.

    Args:
        data_root: The folder.
        split: A folder in it, if the images are there.
        data_prefix: The same.
        with_label: Whether the images have labels.
        labels: See :func:`~mmsnclr.datasets.listing.read_labels`. Of ``'cls'``, whole numbers
            are the classes' own; other names are numbered in their order.
        **kwargs: Further arguments of mmpretrain's ``BaseDataset``.

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If it holds no images, a tar is damaged, or an image has no label.
    """

    def __init__(
        self,
        data_root: str,
        split: str = '',
        data_prefix: str = '',
        with_label: bool = True,
        labels: str = 'folders',
        **kwargs: Any,
    ) -> None:
        self.labels = labels if with_label else None
        prefix = data_prefix or split
        super().__init__(ann_file='', data_root=data_root, data_prefix=prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images.

        Returns:
            ``img_path`` and, where there are labels, ``gt_label`` of each image.
        """
        folder = os.path.abspath(self.img_prefix)
        paths = image_paths(folder)
        # As the config names the folder: it is by this path that views are seeded.
        prefix, start = os.path.join(self.img_prefix, ''), len(folder) + 1
        images: list[dict] = [dict(img_path=prefix + path[start:]) for path in paths]
        if self.labels is None:
            return images
        labels = read_labels(self.labels, paths, self.data_root)
        classes = sorted(set(labels))
        numbers = {name: rank for rank, name in enumerate(classes)}
        if self.labels == 'cls' and all(name.isdecimal() for name in classes):
            numbers = {name: int(name) for name in classes}
            classes = [str(number) for number in range(max(numbers.values()) + 1)]
        self._metainfo.setdefault('classes', tuple(classes))
        for image, label in zip(images, labels):
            image['gt_label'] = numbers[label]
        return images
