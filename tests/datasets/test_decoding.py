"""Every kind of image file is seen as a viewer shows it."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from mmsnclr.datasets import AugmentedViews
from mmsnclr.datasets.decoding import decode, plain_header

PICTURE = np.ascontiguousarray(load_sample_images().images[1][100:356:4, 100:484:4])  # 64 x 96
RGB = Image.fromarray(PICTURE)
GRAY = np.asarray(RGB.convert('L'))
ALPHA = np.linspace(0, 255, 96).astype(np.uint8) * np.ones((64, 1), np.uint8)
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
    image, divisor = decode(data, 2, 6, 'a.jpg')
    assert (image.shape, divisor) == ((48, 32, 3), 2)


def test_a_turned_cmyk_picture_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    CMYK.save(tmp_path / 'a.jpg', exif=exif, quality=98, subsampling=0)
    ours, reference = seen(tmp_path / 'a.jpg', TURNS[8](np.asarray(CMYK.convert('RGB'))))
    assert np.abs(ours - reference).mean() < 2.5


@pytest.mark.parametrize('dtype', [np.float32, np.int32])
def test_values_without_black_and_white_are_refused(tmp_path, dtype):
    Image.fromarray(GRAY.astype(dtype) * 70_000).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=r'a\.tif cannot be decoded: 32-bit values'):
        AugmentedViews([{}])(dict(img_path=str(tmp_path / 'a.tif')))


def test_a_cut_file_of_a_kind_that_pillow_decodes_is_named(tmp_path):
    stream = BytesIO()
    with_alpha('RGB').save(stream, 'PNG')
    (tmp_path / 'cut.png').write_bytes(stream.getvalue()[:2000])
    with pytest.raises(ValueError, match=r'cut\.png cannot be decoded'):
        AugmentedViews([{}])(dict(img_path=str(tmp_path / 'cut.png')))
