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
_FLIP = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # from 5 on after a transposition
_JPEG = b'\xff\xd8'


def plain_header(data: bytes, path: str) -> tuple[int, int, int] | None:
    """Size and orientation of an image that OpenCV decodes right, which is the fast way.

    Args:
        data: The encoded image.
        path: Named in errors.

    Returns:
        Height and width as it is to be looked at, and EXIF's number of how it
        is turned; ``None`` if the image needs :func:`decode_any`: alpha,
        palette, CMYK, more than 8 bits, or turned in another format than JPEG.

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
    if turn not in range(1, 9):  # nor does Pillow turn by it
        turn = 1
    if turn != 1 and not data.startswith(_JPEG):
        return None
    return (width, height, turn) if turn >= 5 else (height, width, turn)


def decode(data: bytes, spare: int, turn: int, path: str) -> tuple[np.ndarray, int]:
    """Decode by OpenCV, a JPEG at one ``spare``-th of its size or more.

    Args:
        data: An image for which :func:`plain_header` gives a size.
        spare: How many times larger than needed the image is.
        turn: How it is turned, as :func:`plain_header` says.
        path: Named in errors.

    Returns:
        The image, ``(H, W, 3)`` uint8 BGR, and by what its size was divided.

    Raises:
        ValueError: If the file is damaged.
    """
    is_jpeg = data.startswith(_JPEG)
    divisor = max(d for d in _DECODE if d <= max(spare, 1)) if is_jpeg else 1
    # OpenCV does not read the orientation that stands in XMP, Pillow does.
    flags = _DECODE[divisor] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        return decode_any(data, path), 1
    if turn >= 5:
        image = cv2.transpose(image)
    return (cv2.flip(image, _FLIP[turn]) if turn in _FLIP else image), divisor


def decode_any(data: bytes, path: str) -> np.ndarray:
    """Decode by Pillow, which is slower and knows every kind of image.

    Returns:
        ``(H, W, 3)`` uint8 BGR, see :func:`to_rgb`.

    Raises:
        ValueError: If ``data`` is not an image, is damaged, or has no 8-bit form.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            rgb = to_rgb(image)
    except Exception as error:  # as above
        raise ValueError(f'{path} cannot be decoded: {error}') from error
    return np.ascontiguousarray(np.asarray(rgb)[..., ::-1])


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file of any kind: ``(H, W, 3)`` uint8 BGR, as :func:`decode_any`.

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
