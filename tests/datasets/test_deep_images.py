"""Images of more than 8 bits are scaled to what a viewer shows."""

import cv2
import numpy as np
import pytest
from pictures import COLOURS, DEEP, GRAY, PICTURE, on_white, png, seen, tiff
from PIL import Image

from mmsnclr.datasets import AugmentedViews
from mmsnclr.datasets.decoding import read_image
from mmsnclr.datasets.scan import scan_images


def test_floats_without_black_and_white_are_refused(tmp_path):
    Image.fromarray(GRAY.astype(np.float32)).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=r'a\.tif cannot be decoded: it holds floats'):
        AugmentedViews([{}])(dict(img_path=str(tmp_path / 'a.tif')))


@pytest.mark.parametrize(('bands', 'white'), [(1, 15), (1, 1023), (3, 100), (3, 1023)])
def test_a_portable_map_is_scaled_by_the_white_that_it_states(tmp_path, bands, white):
    values = np.round((GRAY if bands == 1 else PICTURE) / 255 * white)
    header = f'P{5 if bands == 1 else 6} 96 64 {white}\n'.encode()
    (tmp_path / 'a.ppm').write_bytes(
        header + values.astype('>u2' if white > 255 else 'u1').tobytes()
    )
    ours, reference = seen(tmp_path / 'a.ppm', GRAY if bands == 1 else PICTURE)
    assert np.abs(ours - reference).mean() < 6 * 15 / white + 2


@pytest.mark.parametrize(
    ('dtype', 'numbers', 'levels'),
    [
        ('<i2', 2, (-128, 127)),
        ('<u4', 1, None),
        ('<i4', 2, (-128, 127)),
        ('<i1', 2, (-128, 127)),
    ],
)
def test_whole_numbers_of_every_size_and_sign_are_scaled(tmp_path, dtype, numbers, levels):
    values = GRAY.astype(np.int64) - 128 if levels else GRAY.astype(np.int64) << 24
    values = values.astype(dtype)
    tiff(tmp_path / 'a.tif', values, {258: values.itemsize * 8, 262: 1, 339: numbers})
    image = read_image(tmp_path / 'a.tif', levels)
    assert np.abs(image[..., 0].astype(int) - GRAY).max() <= 1
    assert np.ptp(read_image(tmp_path / 'a.tif')) > 100  # also by what is in it


def test_0_may_be_white(tmp_path):
    tiff(tmp_path / 'a.tif', (4095 - GRAY.astype(np.uint16) * 16), {258: 16, 262: 0})
    low, high = scan_images([tmp_path / 'a.tif']).levels
    image = read_image(tmp_path / 'a.tif', (low, high))[..., 0].astype(int)
    stretched = (GRAY.astype(int) - GRAY.min()) * 255 / np.ptp(GRAY)
    assert np.abs(image - stretched).max() <= 1 and -4096 < low < high <= 0


def test_the_range_of_a_set_gives_black_and_white(tmp_path):
    Image.fromarray(GRAY.astype(np.uint16) * 4 + 7000).save(tmp_path / 'a.png')
    views = AugmentedViews([dict(size=48)], levels=(7000, 7000 + 1023))
    assert np.array_equal(read_image(tmp_path / 'a.png', views.levels)[..., 0], GRAY)
    assert 'img' in views(dict(img_path=str(tmp_path / 'a.png')))
    with pytest.raises(ValueError, match=r'levels=\(5, 5\) must rise'):
        AugmentedViews([{}], levels=(5, 5))


@pytest.mark.parametrize('name', COLOURS)
def test_colours_of_more_than_8_bits_are_scaled_as_grey_is(tmp_path, name):
    COLOURS[name](tmp_path / name)
    expected = GRAY[..., None].repeat(3, axis=2) if name.startswith('gray') else PICTURE
    expected = on_white(expected) if 'a.' in name else expected
    image = read_image(tmp_path / name)[..., ::-1]
    assert np.abs(image.astype(int) - expected).max() <= 1
    scan = scan_images([tmp_path / name])
    low, high = scan.levels
    assert 9 <= low < 1024 and 2048 <= high < 4096  # without those of transparency
    assert np.abs(read_image(tmp_path / name, (9, 9 + 4095))[..., ::-1] - image).max() <= 1


def test_colours_of_12_bits_in_jpeg_2000_are_not_black(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.jp2'), DEEP[..., ::-1])  # with a loss
    image = read_image(tmp_path / 'a.jp2', (0, 4095))[..., ::-1]
    assert np.abs(image.astype(int) - PICTURE).mean() < 2


def test_a_transparent_colour_of_16_bits_is_that_alone(tmp_path):
    values = DEEP.copy()
    values[0, 0], values[0, 1] = (100, 200, 300), (100, 200, 301)  # the upper 8 bits are alike
    png(tmp_path / 'a.png', values, key=values[0, 0])
    image = read_image(tmp_path / 'a.png')
    assert image[0, 0].tolist() == [255] * 3 and image[0, 1].max() < 30
    assert np.abs(image[1:, :, ::-1].astype(int) - PICTURE[1:]).max() <= 1
