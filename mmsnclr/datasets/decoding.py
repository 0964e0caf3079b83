"""Image files of every kind as they are looked at: upright, 8 bits, three channels."""

import math
import os
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image, UnidentifiedImageError

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
LIMIT = 'MMSNCLR_MAX_MEGAPIXELS'  # the environment variable that replaces it
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
_DEEP_BANDS = r'(RGB[AX]?|LA|[RGBA]);16'
# Tags of TIFF.
_BITS, _BLACK, _EXTRA_BANDS, _NUMBERS = 258, 262, 338, 339


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
            :data:`MAX_PIXELS`, or than the environment variable :data:`LIMIT` says.
    """
    if not data:
        raise ValueError('empty file')
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_why_unidentified(data)) from None
    # Pillow's parsers raise whatever a damaged file leads them into.
    except Exception as error:
        raise ValueError(describe(error, data)) from error
    most, size = _most_megapixels(), image.width * image.height / 1e6
    if size > most:
        raise ValueError(
            f'more than {most:.3g} megapixels: make it smaller, or allow it by '
            f'`mmsnclr --max-megapixels {math.ceil(size)} ...`'
        )
    return image


def _most_megapixels() -> float:
    text = os.environ.get(LIMIT)
    try:
        return float(text) if text else MAX_PIXELS / 1e6
    except ValueError:
        raise ValueError(f'{LIMIT}={text!r} must be a number') from None


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
            picture = to_rgb(image, deep_values(image, data), levels)
            return np.ascontiguousarray(np.asarray(picture)[..., ::-1])
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


def to_rgb(
    image: Image.Image, deep: np.ndarray | None = None, levels: tuple[int, int] | None = None
) -> Image.Image:
    """Turn upright and convert to 8-bit RGB.

    What is transparent lies on white, as a viewer shows it. A fourth band of a TIFF file is
    transparency only where the file says so.

    Args:
        image: As opened, of any mode; of an animation the first frame is taken.
        deep: Its :func:`deep_values`.
        levels: Black and white of these, such as the range of a set. By default white is the
            highest value of as many bits as the image uses, and black is 0 or its lowest value
            below.

    Returns:
        The image in mode ``RGB``.

    Raises:
        ValueError: If it holds floats, whose black and white are not defined.
    """
    image.load()  # only then a TIFF file is upright, and a PNG file's EXIF known
    turn = orientation(image)
    if image.mode == 'F':
        raise ValueError(
            'it holds floats, which have no defined black and white: convert it to 8 or 16 bits'
        )
    if image.mode.startswith('I') and deep is None:  # PPM states its white, to which Pillow scales
        deep, levels = np.asarray(image), (0, 65535)
    if deep is not None:
        image = _to_8_bits(image, deep, levels)
    elif has_undeclared_band(image):
        image = image.convert('RGB')
    if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    image = image.convert('RGB')
    return image.transpose(_TRANSPOSE[turn]) if turn in _TRANSPOSE else image


def has_undeclared_band(image: Any) -> bool:
    """Whether the fourth band of a TIFF file may be anything, such as near infrared."""
    is_rgba = image.format == 'TIFF' and image.mode == 'RGBA'
    return is_rgba and image.tag_v2.get(_EXTRA_BANDS) not in ((1,), (2,))


def deep_values(image: Any, data: bytes) -> np.ndarray | None:
    """Values of an image with more than 8 bits, or with signs, whose white is not known.

    Args:
        image: As opened, of any mode.
        data: Its file.

    Returns:
        ``(H, W)`` of grey, or ``(H, W, 3)`` of RGB; ``None`` of other images.

    Raises:
        ValueError: If it is damaged.
    """
    image.load()
    if image.mode.startswith('I') and image.format != 'PPM':
        return _whole_numbers(image)
    if image.format == 'TIFF' and image.mode == 'L' and image.tag_v2.get(_NUMBERS) == (2,):
        return np.asarray(image).view(np.int8)  # which Pillow reads as unsigned
    if image.format not in ('PNG', 'TIFF', 'JPEG2000') or image.mode not in ('RGB', 'RGBA'):
        return None
    if image.format == 'JPEG2000':  # of which Pillow keeps the upper 8 bits
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return values[..., 2::-1] if values is not None and values.dtype == np.uint16 else None
    with Image.open(BytesIO(data), formats=FORMATS) as opened:
        other: Any = opened
        if not all(re.match(_DEEP_BANDS, _packing(tile)) for tile in other.tile):
            return None
        if _packing(other.tile[0]).startswith('LA'):  # of which Pillow has no lower 8 bits
            values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if values is None:
                raise ValueError('it is damaged: copy or make it again')
            return values[..., 0]
        # Of 16 bits Pillow keeps the upper 8: those of the other byte order are the lower.
        other.tile = [(*tile[:3], _swapped(tile[3])) for tile in other.tile]
        other.load()
        upper, lower = (np.asarray(part)[..., :3].astype(np.uint16) for part in (image, other))
    return upper << 8 | lower


def _packing(tile: tuple) -> str:
    """How Pillow unpacks a part of a file: bands, bits, byte order."""
    return tile[3] if isinstance(tile[3], str) else tile[3][0]


def _swapped(args: str | tuple) -> str | tuple:
    """A decoder's arguments with the other byte order."""
    if isinstance(args, tuple):
        return _swapped(args[0]), *args[1:]
    own = 'L' if sys.byteorder == 'little' else 'B'
    return args[:-1] + ('B' if args[-1].replace('N', own) == 'L' else 'L')


def value_range(deep: np.ndarray | None) -> tuple[int, int] | None:
    """Lowest and highest of :func:`deep_values`."""
    return None if deep is None else (int(deep.min()), int(deep.max()))


def _whole_numbers(image: Any) -> np.ndarray:
    values = np.asarray(image)
    if image.format != 'TIFF':
        return values
    if image.tag_v2.get(_BITS) == (32,) and image.tag_v2.get(_NUMBERS) != (2,):
        values = values.view(np.uint32)  # which Pillow reads as signed ones
    # 0 may be white, which Pillow knows of 8 bits only.
    return values if image.tag_v2.get(_BLACK) else -values.astype(np.int64)


def _to_8_bits(image: Image.Image, deep: np.ndarray, levels: tuple[int, int] | None) -> Image.Image:
    """Scale an image's values, and keep what of it is transparent."""
    if levels is None:
        levels = min(0, int(deep.min())), 2 ** max(0, int(deep.max())).bit_length() - 1
    scaled = Image.fromarray(_scaled(deep, *levels))
    if 'transparency' in image.info:
        seen = deep != image.info['transparency']
        seen = seen.any(axis=2) if seen.ndim == 3 else seen
        scaled.putalpha(Image.fromarray(seen.astype(np.uint8) * 255))
    elif image.mode == 'RGBA' and not has_undeclared_band(image):
        scaled.putalpha(image.getchannel('A'))
    return scaled


def _scaled(values: np.ndarray, low: int, high: int) -> np.ndarray:
    if values.dtype == np.uint16:  # a table takes less time and memory
        return _scaled(np.arange(2**16), low, high)[values]
    return ((values - float(low)) * (256 / (high - low + 1))).clip(0, 255).astype(np.uint8)
