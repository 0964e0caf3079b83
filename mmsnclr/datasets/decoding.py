"""Image files of every kind as they are looked at: upright, 8 bits, three channels."""

import os
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image, UnidentifiedImageError

from ..parents import open_large_images

Image.init()
# Nothing else is opened: Pillow would start Ghostscript on a PostScript file, whatever its name.
FORMATS = tuple(
    kind
    for kind in ('JPEG', 'MPO', 'JPEG2000', 'PNG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM', 'AVIF')
    if kind in Image.OPEN
)
# fmt: off
SUFFIXES = frozenset([
    '.avif', '.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.ppm', '.tif',
    '.tiff', '.webp',
])
# fmt: on
MAX_PIXELS = 2**27  # 12 bytes each while they are decoded
_LIMIT = 'MMSNCLR_MAX_MEGAPIXELS'  # an environment variable, so that all processes have it
ORIENTATION = 0x0112  # the tag of EXIF
# An eighth would differ by more than 2 grey levels from resizing at full size.
_DECODE = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
}
_FLIP = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # from 5 on after a transposition
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LONGEST = 16  # times the shorter edge
# Tags of TIFF.
_BITS, _EXTRA_BANDS, _NUMBERS = 258, 338, 339


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        height: As it is to be looked at, in pixels.
        width: Likewise.
        turn: EXIF's number of how it is turned.
    """

    height: int
    width: int
    turn: int


def open_image(data: bytes) -> Image.Image:
    """Open an encoded image by Pillow, which reads its pixels later.

    Args:
        data: Of one of :data:`FORMATS`.

    Returns:
        The image.

    Raises:
        ValueError: If it is empty, of another kind, damaged at its beginning, or has more than
            :func:`max_pixels`.
    """
    if not data:
        raise ValueError('empty file')
    most = max_pixels()
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        pixels = image.width * image.height
    except UnidentifiedImageError:
        raise ValueError(_why_unidentified(data)) from None
    except Image.DecompressionBombError:
        pixels = most + 1
    # Pillow's parsers raise whatever a damaged file leads them into.
    except Exception as error:
        raise ValueError(describe(error, data)) from error
    if pixels > most:
        raise ValueError(
            f'more than {most / 1e6:.0f} megapixels: make it smaller, or raise {_LIMIT} (an '
            'environment variable), at 12 bytes a pixel in each thread and process that loads'
        )
    return image


@cache
def max_pixels() -> int:
    """Pixels of the largest image that is decoded.

    :data:`MAX_PIXELS`, or as the environment variable ``MMSNCLR_MAX_MEGAPIXELS`` says.

    Raises:
        ValueError: If that is no number.
    """
    text = os.environ.get(_LIMIT)
    if text is None:
        return MAX_PIXELS
    try:
        pixels = int(float(text) * 1e6)
    except (OverflowError, ValueError):
        raise ValueError(f'{_LIMIT}={text!r} must be a number') from None
    open_large_images(pixels)
    return pixels


def _why_unidentified(data: bytes) -> str:
    """Why Pillow takes a file for no image, which it does not tell."""
    formats: dict[str, Any] = Image.OPEN
    for kind in FORMATS:
        factory, accept = formats[kind]

        if accept and accept(data[:16]) is True:
            try:
                factory(BytesIO(data))
            except Exception as error:
                return f'{kind}: {describe(error, data)}'
    return 'not an image of a known kind'


def describe(error: Exception, data: bytes) -> str:
    """What went wrong with an image file, also where the error does not say it."""
    if _is_cut(data):
        return 'image file is truncated'
    if isinstance(error, MemoryError):
        return 'not enough memory to decode it'
    return str(error) or type(error).__name__


def _is_cut(data: bytes) -> bool:
    """Whether a WEBP or AVIF file is shorter than it says, for which they have no error."""
    if data[:4] == b'RIFF':
        return int.from_bytes(data[4:8], 'little') + 8 > len(data)
    if data[4:8] != b'ftyp':
        return False
    end = 0
    while end < len(data):
        size = int.from_bytes(data[end : end + 4], 'big')
        if size < 8:  # to the end, or a long one
            return False
        end += size
    return end > len(data)


def orientation(image: Image.Image) -> int:
    """EXIF's number of how an image is turned, 1 to 8; 1 if its EXIF block is damaged."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return turn if turn in range(1, 9) else 1


def plain_header(data: bytes, path: str) -> Header | None:
    """Size and orientation of a JPEG file that OpenCV decodes as Pillow does, but faster.

    Args:
        data: The encoded image.
        path: Named in errors.

    Returns:
        Its header; ``None`` if the image needs :func:`decode_any`: another format, or CMYK.

    Raises:
        ValueError: If the file is not an image.
    """
    try:
        with open_image(data) as image:
            if image.format not in ('JPEG', 'MPO') or image.mode not in ('RGB', 'L'):
                return None
            turn, (width, height) = orientation(image), image.size
    except ValueError as error:
        raise ValueError(f'{path} is not a usable image: {error}') from error
    return Header(width, height, turn) if turn >= 5 else Header(height, width, turn)


def decode(data: bytes, spare: int, header: Header, path: str) -> tuple[np.ndarray, int]:
    """Decode a JPEG file by OpenCV, at one ``spare``-th of its size or more.

    Args:
        data: An image for which :func:`plain_header` gives a header.
        spare: How many times larger than needed the image is.
        header: That header.
        path: Named in errors.

    Returns:
        The image, ``(H, W, 3)`` uint8 BGR, and by what its size was divided.

    Raises:
        ValueError: If the file is damaged.
    """
    divisor = max(d for d in _DECODE if d <= max(spare, 1))
    # OpenCV does not read the orientation that stands in XMP, Pillow does.
    flags = _DECODE[divisor] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is not None and header.turn >= 5:
        image = cv2.transpose(image)
    # Lossless JPEG, for one, has no reduced size.
    if image is None or image.shape[:2] != tuple(-(-edge // divisor) for edge in header[:2]):
        return decode_any(data, path), 1
    return (cv2.flip(image, _FLIP[header.turn]) if header.turn in _FLIP else image), divisor


def decode_any(data: bytes, path: str, levels: tuple[int, int] | None = None) -> np.ndarray:
    """Decode by Pillow, which is slower and knows every kind of image.

    Args:
        data: The encoded image.
        path: Named in errors.
        levels: See :func:`to_rgb`.

    Returns:
        ``(H, W, 3)`` uint8 BGR, see :func:`to_rgb`.

    Raises:
        ValueError: If ``data`` is not an image, is damaged, or has no 8-bit form.
    """
    try:
        with open_image(data) as image:
            return np.ascontiguousarray(np.asarray(to_rgb(image, levels))[..., ::-1])
    except Exception as error:  # as above
        raise ValueError(f'{path} cannot be decoded: {describe(error, data)}') from error


def read_image(path: str | Path, levels: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image file, also in a tar, of any kind: ``(H, W, 3)`` uint8 BGR, as `decode_any`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not an image, or damaged.
    """
    return decode_any(fileio.get(path), str(path), levels)


def middle(image: np.ndarray) -> np.ndarray:
    """What matters of a very long image, which OpenCV could not enlarge as a whole."""
    height, width = image.shape[:2]
    longest = _LONGEST * min(height, width)
    top, left = max(height - longest, 0) // 2, max(width - longest, 0) // 2
    return image[top : top + longest, left : left + longest]


def to_rgb(image: Image.Image, levels: tuple[int, int] | None = None) -> Image.Image:
    """Turn upright and convert to 8-bit RGB.

    What is transparent lies on white, as a viewer shows it. A fourth band of a TIFF file is
    transparency only where the file says so.

    Args:
        image: As opened, of any mode; of an animation the first frame is taken.
        levels: Black and white of images with more than 8 bits, such as the range of a set.
            By default white is the highest value of as many bits as the image uses, and black
            is 0 or its lowest value below.

    Returns:
        The image in mode ``RGB``.

    Raises:
        ValueError: If it holds floats, whose black and white are not defined.
    """
    image.load()  # only then a TIFF file is upright, and a PNG file's EXIF known
    turn = orientation(image)
    if image.mode == 'F':
        raise ValueError('32-bit values have no defined black and white: convert it to 8 bits')
    if image.mode.startswith('I'):
        image = _to_8_bits(image, levels)
    elif has_undeclared_band(image):
        image = image.convert('RGB')
    key = image.info.get('transparency')
    if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, of which Pillow keeps the upper 8
        image.info['transparency'] = tuple(value >> 8 for value in key)
    if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or key is not None:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    image = image.convert('RGB')
    return image.transpose(_TRANSPOSE[turn]) if turn in _TRANSPOSE else image


def has_undeclared_band(image: Any) -> bool:
    """Whether the fourth band of a TIFF file may be anything, such as near infrared."""
    is_rgba = image.format == 'TIFF' and image.mode == 'RGBA'
    return is_rgba and image.tag_v2.get(_EXTRA_BANDS) not in ((1,), (2,))


def value_range(image: Image.Image) -> tuple[int, int] | None:
    """Lowest and highest value of an image with more than 8 bits, whose white is not known."""
    if not image.mode.startswith('I') or image.format == 'PPM':
        return None
    values = _values(image)
    return int(values.min()), int(values.max())


def _values(image: Any) -> np.ndarray:
    values = np.asarray(image)
    if image.format == 'TIFF' and image.tag_v2.get(_BITS) == (32,):
        # Pillow reads unsigned integers as signed ones.
        return values if image.tag_v2.get(_NUMBERS) == (2,) else values.view(np.uint32)
    return values


def _to_8_bits(image: Image.Image, levels: tuple[int, int] | None) -> Image.Image:
    values = _values(image)
    if image.format == 'PPM':  # states its white, to which Pillow scales
        levels = 0, 65535
    elif levels is None:
        levels = min(0, int(values.min())), 2 ** int(values.max()).bit_length() - 1
    low, high = levels
    scaled = (values - float(low)) * (256 / (high - low + 1))
    gray = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    if 'transparency' in image.info:
        opaque = (values != image.info['transparency']).astype(np.uint8) * 255
        gray.putalpha(Image.fromarray(opaque))
    return gray
