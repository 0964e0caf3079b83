"""Every kind of image file is seen as a viewer shows it."""

import struct
import subprocess
import zlib
from io import BytesIO

import numpy as np
import pytest
from pictures import ALPHA, COLOURS, DEEP, GRAY, PICTURE, RGB, on_white, png, seen, tiff
from PIL import Image

from mmsnclr.datasets import AugmentedViews
from mmsnclr.datasets.decoding import LIMIT, decode, open_image, plain_header, read_image
from mmsnclr.datasets.scan import scan_images

TURNS = {  # what undoes the orientation that EXIF gives
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def palette_with_a_transparent_entry():
    image = RGB.convert('P')
    expected = np.asarray(image.convert('RGB')).copy()
    entry = np.bincount(np.asarray(image).ravel()).argmax()
    expected[np.asarray(image) == entry] = 255
    return image, dict(transparency=int(entry)), expected


def with_alpha(mode):
    image = RGB.convert(mode)
    image.putalpha(Image.fromarray(ALPHA))
    return image


SIXTEEN_BITS = GRAY.astype(np.uint16) * 256 + 99
CMYK = RGB.convert('CMYK')
KINDS = {
    'rgb.jpg': (RGB, dict(quality=98, subsampling=0), PICTURE),
    'rgb.png': (RGB, {}, PICTURE),
    'rgb.webp': (RGB, dict(lossless=True), PICTURE),
    'rgb.bmp': (RGB, {}, PICTURE),
    'rgb.gif': (
        RGB,
        {},
        np.asarray(RGB.convert('P', palette=Image.Palette.ADAPTIVE).convert('RGB')),
    ),
    'named_otherwise.jpg': (RGB, dict(format='JPEG2000', irreversible=False), PICTURE),
    'gray.jpg': (Image.fromarray(GRAY), dict(quality=98), GRAY),
    'gray.png': (Image.fromarray(GRAY), {}, GRAY),
    'bilevel.png': (RGB.convert('1'), {}, np.asarray(RGB.convert('1').convert('L'))),
    'cmyk.jpg': (CMYK, dict(quality=98, subsampling=0), np.asarray(CMYK.convert('RGB'))),
    'cmyk.tif': (CMYK, {}, np.asarray(CMYK.convert('RGB'))),
    'palette.png': (RGB.convert('P'), {}, np.asarray(RGB.convert('P').convert('RGB'))),
    'transparent_palette.png': palette_with_a_transparent_entry(),
    'alpha.png': (with_alpha('RGB'), {}, on_white(PICTURE)),
    'alpha.webp': (with_alpha('RGB'), dict(lossless=True, exact=True), on_white(PICTURE)),
    'gray_alpha.png': (with_alpha('L'), {}, on_white(GRAY[..., None].repeat(3, axis=2))),
    '16_bits.png': (Image.fromarray(SIXTEEN_BITS), {}, GRAY),
    '16_bits.tif': (Image.fromarray(SIXTEEN_BITS), {}, GRAY),
    'gray.avif': (Image.fromarray(GRAY), dict(quality=100, range='limited'), GRAY),
    'low_12_bits.png': (Image.fromarray(GRAY.astype(np.uint16) * 16), {}, GRAY),
    'low_12_bits.tif': (Image.fromarray(GRAY.astype(np.uint16) * 16), {}, GRAY),
    '32_bits.tif': (Image.fromarray(GRAY.astype(np.int32) * 65536), {}, GRAY),
    'transparent_16_bits.png': (
        Image.fromarray(SIXTEEN_BITS),
        dict(transparency=int(SIXTEEN_BITS[0, 0])),
        np.where(GRAY[0, 0] == GRAY, 255, GRAY).astype(np.uint8),
    ),
}


@pytest.mark.parametrize('name', KINDS)
def test_every_kind_of_file_looks_as_in_a_viewer(tmp_path, name):
    image, save, expected = KINDS[name]
    image.save(tmp_path / name, **save)
    ours, reference = seen(tmp_path / name, expected)
    assert np.abs(ours - reference).mean() < 2.5


@pytest.mark.parametrize('orientation', TURNS)
@pytest.mark.parametrize(
    ('name', 'save'),
    [
        ('a.jpg', dict(quality=98, subsampling=0)),
        ('a.png', {}),
        ('a.webp', dict(lossless=True)),
        ('a.tif', {}),
    ],
)
def test_a_turned_picture_is_upright_in_every_format(tmp_path, name, save, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    RGB.save(tmp_path / name, exif=exif, **save)
    ours, reference = seen(tmp_path / name, TURNS[orientation](PICTURE))
    assert np.abs(ours - reference).mean() < 2.5


@pytest.mark.parametrize('orientation', TURNS)
@pytest.mark.parametrize(
    ('name', 'save'),
    [('a.jpg', dict(quality=98, subsampling=0)), ('a.webp', dict(lossless=True))],
)
def test_a_picture_is_upright_whose_orientation_stands_only_in_xmp(
    tmp_path, name, save, orientation
):
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
    RGB.save(tmp_path / name, xmp=xmp, **save)
    ours, reference = seen(tmp_path / name, TURNS[orientation](PICTURE))
    assert np.abs(ours - reference).mean() < 2.5


@pytest.mark.parametrize('orientation', [0, 9])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    RGB.save(tmp_path / 'a.jpg', exif=exif, quality=98, subsampling=0)
    ours, reference = seen(tmp_path / 'a.jpg', PICTURE)
    assert np.abs(ours - reference).mean() < 2.5


def test_a_turned_jpeg_is_still_decoded_at_a_fraction(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    RGB.save(tmp_path / 'a.jpg', exif=exif)
    data = (tmp_path / 'a.jpg').read_bytes()
    assert plain_header(data, 'a.jpg') == (96, 64, 6)
    image, divisor = decode(data, 2, plain_header(data, 'a.jpg'), 'a.jpg')
    assert (image.shape, divisor) == ((48, 32, 3), 2)


def test_a_turned_cmyk_picture_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    CMYK.save(tmp_path / 'a.jpg', exif=exif, quality=98, subsampling=0)
    ours, reference = seen(tmp_path / 'a.jpg', TURNS[8](np.asarray(CMYK.convert('RGB'))))
    assert np.abs(ours - reference).mean() < 2.5


def test_an_infrared_band_is_not_taken_for_transparency(tmp_path):
    four = np.dstack([PICTURE, np.full_like(GRAY, 10)])
    tiff(tmp_path / 'a.tif', four, {258: (8, 8, 8, 8), 262: 2, 277: 4})
    assert np.array_equal(read_image(tmp_path / 'a.tif')[..., ::-1], PICTURE)


def test_an_animation_is_seen_by_the_image_that_viewers_show_first(tmp_path):
    frames = [Image.fromarray(np.roll(PICTURE, shift, 0)) for shift in (20, 40)]
    RGB.save(tmp_path / 'a.png', save_all=True, append_images=frames, default_image=True)
    ours, reference = seen(tmp_path / 'a.png', PICTURE)
    assert np.abs(ours - reference).mean() < 2.5


def lossless_jpeg(gray):
    """An image as a JPEG file of the lossless process (SOF3), which Pillow cannot write."""
    height, width = gray.shape
    values = gray.astype(int)
    predicted = np.roll(values, 1, axis=1)
    predicted[:, 0] = np.roll(values[:, 0], 1)
    predicted[0, 0] = 128
    bits = ''
    for difference in (values - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        number = difference if difference > 0 else difference + 2**size - 1
        bits += f'{size:04b}' + (f'{number:0{size}b}' if size else '')
    bits += '1' * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, 'big').replace(b'\xff', b'\xff\x00')
    table = bytes([0, 0, 0, 0, 9, *[0] * 12, *range(9)])
    return b''.join(
        [
            b'\xff\xd8\xff\xc3' + struct.pack('>HBHHBBBB', 11, 8, height, width, 1, 1, 0x11, 0),
            b'\xff\xc4' + struct.pack('>H', 2 + len(table)) + table,
            b'\xff\xda' + struct.pack('>HBBBBBB', 8, 1, 1, 0, 1, 0, 0) + coded + b'\xff\xd9',
        ]
    )


def test_a_lossless_jpeg_has_no_reduced_size_and_is_used(tmp_path):
    data = lossless_jpeg(GRAY)
    image, divisor = decode(data, 2, plain_header(data, 'a.jpg'), 'a.jpg')
    assert divisor == 1 and np.array_equal(image[..., 0], GRAY)
    (tmp_path / 'a.jpg').write_bytes(data)
    assert scan_images([tmp_path / 'a.jpg']).accepted == [tmp_path / 'a.jpg']


@pytest.mark.parametrize(('name', 'tag'), [('a.png', b'eXIf'), ('a.jpg', b'Exif\0\0')])
def test_a_damaged_exif_block_turns_nothing(tmp_path, name, tag):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = BytesIO()
    RGB.save(stream, name[2:].replace('jpg', 'jpeg'), exif=exif)
    data = bytearray(stream.getvalue())
    start = data.index(tag) + len(tag)
    end = start + len(exif.tobytes()) - 6
    data[start : start + 8] = b'garbage!'
    if name == 'a.png':
        data[end : end + 4] = struct.pack('>I', zlib.crc32(data[start - 4 : end]))
    (tmp_path / name).write_bytes(data)
    ours, reference = seen(tmp_path / name, PICTURE)
    assert np.abs(ours - reference).mean() < 5
    assert scan_images([tmp_path / name]).accepted == [tmp_path / name]


def test_a_script_is_not_run_whatever_its_name(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, 'check_call', lambda *args, **_: started.append(args))
    monkeypatch.setattr(subprocess, 'Popen', lambda *args, **_: started.append(args))
    script = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n'
    (tmp_path / 'a.jpg').write_bytes(script)
    with pytest.raises(ValueError, match=r'a\.jpg cannot be decoded: not an image of a known'):
        read_image(tmp_path / 'a.jpg')
    assert not started


def test_a_picture_too_large_for_the_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    png(tmp_path / 'a.png', DEEP)
    data = bytearray((tmp_path / 'a.png').read_bytes())
    data[16:24] = struct.pack('>II', 14_000, 13_000)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    (tmp_path / 'a.png').write_bytes(data)
    with pytest.raises(ValueError, match=r'more than 134 megapixels: .*--max-megapixels 182'):
        read_image(tmp_path / 'a.png')
    monkeypatch.setenv(LIMIT, '182')
    with open_image(data) as image:
        assert image.size == (14_000, 13_000)
    RGB.save(tmp_path / 'b.png')
    monkeypatch.setenv(LIMIT, '0.005')
    assert 'more than 0.005 megapixels' in scan_images([tmp_path / 'b.png']).left_out[0][1]


def test_a_tiff_of_a_kind_that_is_not_read_is_named(tmp_path):
    tiff(tmp_path / 'a.tif', np.zeros((64, 96, 4), np.uint8), {258: (8, 8, 8, 8), 262: 1, 277: 4})
    with pytest.raises(ValueError, match=r'a\.tif cannot be decoded: TIFF: unknown pixel mode'):
        read_image(tmp_path / 'a.tif')


def test_a_damaged_file_of_deep_grey_with_transparency_is_named(tmp_path):
    """Pillow, which is asked first, takes its pixels as they come."""
    COLOURS['gray_alpha.png'](tmp_path / 'a.png')
    data = bytearray((tmp_path / 'a.png').read_bytes())
    data[-13] ^= 255  # of the checksum of the pixels
    (tmp_path / 'a.png').write_bytes(data)
    with pytest.raises(ValueError, match=r'a\.png cannot be decoded: it is damaged'):
        read_image(tmp_path / 'a.png')


def test_a_cut_file_of_a_kind_that_pillow_decodes_is_named(tmp_path):
    stream = BytesIO()
    with_alpha('RGB').save(stream, 'PNG')
    (tmp_path / 'cut.png').write_bytes(stream.getvalue()[:2000])
    with pytest.raises(ValueError, match=r'cut\.png cannot be decoded'):
        AugmentedViews([{}])(dict(img_path=str(tmp_path / 'cut.png')))
