"""Images of every kind for detectors."""

from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.registry import TRANSFORMS

from .decoding import decode, decode_any, plain_header


@TRANSFORMS.register_module()
class LoadAnyImage(BaseTransform):
    """Loads an image as pretraining sees it; takes the place of ``LoadImageFromFile``.

    That one, by OpenCV, knows fewer kinds of files, and makes dark what has more than 8 bits.

    Args:
        levels: Values of black and white of images with more than 8 bits, such as the range
            of a set; see :func:`~mmsnclr.datasets.decoding.to_rgb`.
        backend_args: mmengine's settings of the storage.
    """

    def __init__(
        self, levels: tuple[int, int] | None = None, backend_args: dict | None = None
    ) -> None:
        super().__init__()
        self.levels = levels
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load the image at ``img_path``.

        Returns:
            The same with ``img``, ``(H, W, 3)`` uint8 BGR, and its height and width as
            ``img_shape`` and ``ori_shape``.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is not an image, or damaged.
        """
        path = results['img_path']
        data = fileio.get(path, backend_args=self.backend_args)
        header = plain_header(data, path)
        if header is None:
            image = decode_any(data, path, self.levels)
        else:
            image, _ = decode(data, 1, header, path)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results
