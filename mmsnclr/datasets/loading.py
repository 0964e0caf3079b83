"""Image files of every kind as they are looked at: upright, 8 bits, three channels."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the tag of EXIF
# An eighth would differ by more than 2 grey levels from resizing at full size.
_DECODE = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
}
_JPEG = b'\xff\xd8'


def plain_size(data: bytes, path: str) -> tuple[int, int] | None:
    """Height and width of an image that OpenCV decodes right, which is the fast way.

    Args:
        data: The encoded image.
        path: Named in errors.

    Returns:
        The size as it is to be looked at; ``None`` if the image needs
        :func:`decode_any`: alpha, palette, CMYK, more than 8 bits, or turned in
        another format than JPEG.

    Raises:
        ValueError: If the file is not an image.
    """
    try:
        with Image.open(BytesIO(data)) as header:
            if header.mode not in ('RGB', 'L') or 'transparency' in header.info:
                return None
            width, height = header.size
            turn = header.getexif().get(ORIENTATION, 1)
    # Pillow's parsers raise whatever a damaged file leads them into.
    except Exception as error:
        raise ValueError(f'{path} is not an image: {error}') from error
    if turn != 1 and not data.startswith(_JPEG):
        return None
    return (width, height) if turn >= 5 else (height, width)


def decode(data: bytes, spare: int, path: str) -> tuple[np.ndarray, int]:
    """Decode by OpenCV, a JPEG at one ``spare``-th of its size or more.

    Args:
        data: An image for which :func:`plain_size` gives a size.
        spare: How many times larger than needed the image is.
        path: Named in errors.

    Returns:
        The image, ``(H, W, 3)`` uint8 BGR, and by what its size was divided.

    Raises:
        ValueError: If the file is damaged.
    """
    is_jpeg = data.startswith(_JPEG)
    divisor = max(d for d in _DECODE if d <= max(spare, 1)) if is_jpeg else 1
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _DECODE[divisor])
    except cv2.error:
        image = None
    return (decode_any(data, path), 1) if image is None else (image, divisor)


def decode_any(data: bytes, path: str) -> np.ndarray:
    """Decode by Pillow, which is slower and knows every kind of image.

    Args:
        data: The encoded image.
        path: Named in errors.

    Returns:
        ``(H, W, 3)`` uint8 BGR, see :func:`to_rgb`.

    Raises:
        ValueError: If the file is not an image, is damaged, or has no 8-bit
            form.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            rgb = to_rgb(image)
    except Exception as error:  # as above
        raise ValueError(f'{path} cannot be decoded: {error}') from error
    return np.ascontiguousarray(np.asarray(rgb)[..., ::-1])


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file of any kind, as :func:`decode_any`.

    Args:
        path: The file.

    Returns:
        ``(H, W, 3)`` uint8 BGR.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not an image, or damaged.
    """
    return decode_any(Path(path).read_bytes(), str(path))


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn upright and convert to 8-bit RGB.

    What is transparent lies on white, as a viewer shows it. 16 bits keep the
    upper 8.

    Args:
        image: Of any mode; of an animation the first frame is taken.

    Returns:
        The image in mode ``RGB``.

    Raises:
        ValueError: If it holds floats or 32-bit integers, whose black and
            white are not defined.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(('I', 'F')):
        values = np.asarray(image)
        if image.mode == 'F' or values.min() < 0 or values.max() > 65535:
            raise ValueError('32-bit values have no defined black and white: convert it to 8 bits')
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert('RGB')
