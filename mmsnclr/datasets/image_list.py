"""Images listed in a text file."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from .listing import read_labels
from .lists import Files, read_text

# If more are missing, a folder was moved or a disk is not there.
_MISSING_SHARE = 0.1


@DATASETS.register_module()
class ImageList(BaseDataset):
    """Images whose paths stand in a text file, one on each line.

    Args:
        ann_file: The text file.
        labels: A csv file with the columns ``path`` and ``label``, to learn, or for
            evaluation: purity and the like. It has a row for every image.
        **kwargs: Further arguments of mmpretrain's ``BaseDataset``; relative paths
            are meant from ``data_root``, and ``classes`` are by default the labels, sorted.

    Attributes:
        missing: Listed images that are not there, and left out.

    Raises:
        FileNotFoundError: If more than a tenth of the images are missing.
        ValueError: If an image has no label.
    """

    def __init__(self, ann_file: str, labels: str | None = None, **kwargs: Any) -> None:
        self.labels = labels
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the paths and, where given, the labels.

        Returns:
            ``img_path`` and, where there are labels, ``gt_label`` of each image.
        """
        names = read_text(self.ann_file).splitlines()
        paths, files = self._joined(names), Files()
        missing = [path for path in paths if path not in files]
        if len(missing) > _MISSING_SHARE * len(paths):
            raise FileNotFoundError(
                f'{len(missing)} of the {len(paths)} images in {self.ann_file} are missing, the '
                f'first {missing[0]!r}: put them back, or take their lines out of the file'
            )
        self.missing, gone = missing, set(missing)
        images: list[dict] = [dict(img_path=path) for path in paths if path not in gone]
        if self.labels is not None:
            paths = [os.path.abspath(image['img_path']) for image in images]
            labels = read_labels(self.labels, paths, self.data_root or os.getcwd())
            classes = self._metainfo.setdefault('classes', tuple(sorted(set(labels))))
            index = {name: number for number, name in enumerate(classes)}
            for image, label in zip(images, labels):
                image['gt_label'] = index[label]
        return images

    def _joined(self, names: list[str]) -> list[str]:
        """Listed paths from the root, each as ``Path`` writes it."""

        @cache
        def written(folder: str) -> str:
            return str(Path(self.data_root or '', folder, '_'))[:-1]

        return [written(folder) + base for folder, base in map(os.path.split, names)]
