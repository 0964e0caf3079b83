"""A photograph, and files of kinds that Pillow cannot write."""

import base64
import io
import re
import struct
import zlib

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from mmsnclr.datasets import AugmentedViews

PICTURE = np.ascontiguousarray(load_sample_images().images[1][100:356:4, 100:484:4])  # 64 x 96
RGB = Image.fromarray(PICTURE)
GRAY = np.asarray(RGB.convert('L'))
ALPHA = np.linspace(0, 255, 96).astype(np.uint8) * np.ones((64, 1), np.uint8)


def seen(path, expected):
    """The whole picture as the loader sees it, and as it should be, both at 48 x 48."""
    aspect = expected.shape[1] / expected.shape[0]
    whole = dict(crop_scale=(0.9999, 1.0), crop_aspect=(0.9999 * aspect, 1.0001 * aspect))
    still = dict(flip_prob=0, jitter_prob=0, gray_prob=0, blur_prob=0)
    result = AugmentedViews([dict(size=48, **whole, **still)])(dict(img_path=str(path)))
    assert result['ori_shape'] == expected.shape[:2]
    reference = Image.fromarray(np.ascontiguousarray(expected)).resize((48, 48), Image.BICUBIC)
    return result['img'][0][..., ::-1].astype(int), np.asarray(reference.convert('RGB')).astype(int)


def on_white(color):
    share = ALPHA[..., None] / 255
    return (color * share + 255 * (1 - share)).round().astype(np.uint8)


def tiff(path, values, tags):
    """An uncompressed TIFF file with any tags, which Pillow cannot write."""
    height, width = values.shape[:2]
    tags = {256: width, 257: height, 259: 1, 277: 1, 278: height, 279: values.nbytes} | tags
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    extra, entries = b'', b''
    for tag, value in sorted((tags | {273: None}).items()):
        value = start + 64 if value is None else value
        if isinstance(value, tuple):  # of four numbers
            entries += struct.pack('<HHII', tag, 3, len(value), start + len(extra))
            extra += struct.pack(f'<{len(value)}H', *value)
        else:
            entries += struct.pack('<HHII', tag, 4, 1, value)
    data = b'II*\0' + struct.pack('<IH', 8, len(tags) + 1) + entries + struct.pack('<I', 0)
    path.write_bytes(data + extra.ljust(64, b'\0') + values.tobytes())


def png(path, values, key=None):
    """A PNG file of 16-bit colours or of grey with transparency, which Pillow cannot write."""
    height, width, bands = values.shape
    header = struct.pack('>IIBBBBB', width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b''.join(b'\0' + row.tobytes() for row in values.astype('>u2'))
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    if key is not None:
        chunks.insert(1, (b'tRNS', key.astype('>u2').tobytes()))
    data = b''.join(
        struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t + d)) for t, d in chunks
    )
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + data)


DEEP = PICTURE.astype(np.uint16) * 16 + 9  # 12 bits
ALPHA_16 = ALPHA.astype(np.uint16) * 257
COLOURS = {
    'rgb.png': lambda path: png(path, DEEP),
    'rgba.png': lambda path: png(path, np.dstack([DEEP, ALPHA_16])),
    'gray_alpha.png': lambda path: png(path, np.dstack([GRAY.astype('u2') * 16 + 9, ALPHA_16])),
    'rgb.tif': lambda path: tiff(path, DEEP, {258: (16, 16, 16), 262: 2, 277: 3}),
    'four.tif': lambda path: tiff(
        path, np.dstack([DEEP, ALPHA_16]), {258: (16, 16, 16, 16), 262: 2, 277: 4}
    ),
}


def shown_in(page):
    """The pictures of an HTML page."""
    found = re.findall('src="data:image/jpeg;base64,([^"]+)"', page.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]
