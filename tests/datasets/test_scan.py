"""Images that cannot be used are found before training, each with the true reason."""

import codecs
import os
import subprocess
import sys
from io import BytesIO

import cv2
import numpy as np
import pytest
from helpers import ROOT
from PIL import Image, PngImagePlugin

from mmsnclr.api.pretrain import pretrain
from mmsnclr.datasets.decoding import LIMIT
from mmsnclr.datasets.scan import scan_images

NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def reason(path):
    (left_out,) = scan_images([path]).left_out
    return left_out[1]


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp', 'avif', 'gif', 'bmp', 'tiff'])
@pytest.mark.parametrize('share', [0.1, 0.5])
def test_a_cut_file_is_left_out(tmp_path, kind, share):
    stream = BytesIO()
    Image.fromarray(NOISE).save(stream, kind)
    data = stream.getvalue()
    (tmp_path / 'a').write_bytes(data[: int(len(data) * share)])
    kinds = (
        ('truncated',) if kind in ('jpeg', 'webp', 'avif', 'bmp') else ('truncated', 'unreadable')
    )
    assert reason(tmp_path / 'a').startswith(kinds)


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / 'a.jpg').touch()
    assert reason(tmp_path / 'a.jpg') == 'empty: the file has no content'


def test_images_without_contrast_are_left_out(tmp_path):
    Image.fromarray(NOISE // 64 + 100).save(tmp_path / 'flat.png')
    Image.fromarray(NOISE // 16 + 100).save(tmp_path / 'faint.png')
    scan = scan_images([tmp_path / 'flat.png', tmp_path / 'faint.png'])
    assert scan.accepted == [tmp_path / 'faint.png']
    assert scan.left_out == [
        (tmp_path / 'flat.png', 'without contrast: no more than 4 levels of grey')
    ]


def test_a_fine_texture_has_contrast(tmp_path):
    """Though none is left at an eighth of a JPEG file's size, which is what is looked at first."""
    rows, columns = np.indices((128, 128))
    texture = (100 + 60 * ((rows + columns) % 2)).astype(np.uint8)
    Image.fromarray(texture).save(tmp_path / 'a.jpg', quality=95)
    with Image.open(tmp_path / 'a.jpg') as image:
        image.draft('L', (1, 1))
        low, high = image.getextrema()
    assert high - low < 8 and scan_images([tmp_path / 'a.jpg']).left_out == []


def test_the_range_of_deep_images_is_that_of_the_set(tmp_path, capsys):
    gray = NOISE[..., 0].astype(np.uint16)
    for name, values in (('a', gray * 4 + 500), ('b', gray * 8 + 1), ('c', gray // 50)):
        Image.fromarray(values).save(tmp_path / f'{name}.png')
    Image.fromarray(NOISE).save(tmp_path / 'd.png')
    scan = scan_images(sorted(tmp_path.iterdir()))
    assert scan.levels == (0, 2041)
    assert [path.stem for path in scan.accepted] == ['a', 'b', 'd']
    assert scan.left_out[0][1] == 'without contrast: from 0 to 5 in a set from 0 to 2041'
    said = '3 images have more than 8 bits: their values from 0 to 2,041 become black to white'
    assert said in capsys.readouterr().out
    scan = scan_images([tmp_path / 'd.png', tmp_path / 'c.png', tmp_path / 'missing.png'])
    assert scan.levels == (0, 5) and scan.reasons == ': 1 unreadable'
    Image.fromarray(gray * 0 + 5).save(tmp_path / 'c.png')
    scan = scan_images([tmp_path / 'd.png', tmp_path / 'c.png'])
    assert scan.levels is None and scan.reasons == ': 1 without contrast'


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('a.tif', '1 images hold several pages or frames, of which the first is used'),
        ('a.gif', '1 images hold several pages or frames, of which the first is used'),
        ('a.png', '1 images hold several pages or frames, of which the first is used'),
    ],
)
def test_pages_and_frames_that_are_not_looked_at_are_said(tmp_path, capsys, name, said):
    pages = [Image.fromarray(np.roll(NOISE, 5, axis)) for axis in (0, 1)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    assert scan_images([tmp_path / name]).accepted
    assert said in capsys.readouterr().err


def test_a_fourth_band_that_is_taken_as_transparency_is_said(tmp_path, capsys):
    Image.fromarray(np.dstack([NOISE, NOISE[..., 0]])).save(tmp_path / 'a.tif')
    assert scan_images([tmp_path / 'a.tif']).accepted
    assert 'whose fourth band is taken as transparency' in capsys.readouterr().err


def test_warnings_of_decoders_are_counted_into_one_line(tmp_path, capsys):
    exif = b'Exif\0\0II*\0\x08\0\0\0\x05\0'  # five entries that are not there
    for number in range(3):
        Image.fromarray(np.roll(NOISE, number, 0)).save(tmp_path / f'{number}.jpg', exif=exif)
    images = sorted(tmp_path.iterdir())
    assert scan_images(images).accepted == images
    said = capsys.readouterr().err
    assert ' warnings of decoders, the first: Corrupt EXIF data' in said
    assert len(said.splitlines()) == 1


def test_tiny_images_alone_name_the_option_that_admits_them(tmp_path):
    for number in range(40):
        Image.fromarray(np.roll(NOISE, number, 1)[:28, :28]).save(tmp_path / f'{number}.png')
    with pytest.raises(ValueError, match=r'none of the 40 images is usable: 40 tiny.*--min-edge'):
        pretrain([tmp_path], tmp_path / 'run', backbone='r18', cfg_options={})


NAMES = """
from mmsnclr.datasets.scan import scan_into
from mmsnclr.datasets import ImageList
import sys
from pathlib import Path
folder, out = map(Path, sys.argv[1:])
out.mkdir()
scan = scan_into(out, [folder], 'folders', None, 32)
images = ImageList(str(out / 'images.txt'), str(out / 'labels.csv'), pipeline=[])
print(sys.getfilesystemencoding(), len(scan.accepted), len(images), *images.metainfo['classes'])
"""


@pytest.mark.parametrize('charmap', ['ISO-8859-1', pytest.param('UTF-8', marks=pytest.mark.slow)])
def test_names_with_umlauts_are_found_under_any_locale(tmp_path, charmap):
    locale = tmp_path / 'locales' / 'test'
    locale.parent.mkdir()
    command = ['localedef', '-c', '-i', 'en_US', '-f', charmap, str(locale)]
    try:
        subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip('there is no localedef')
    for number, name in enumerate(('gr\xfcn', 'rot')):
        folder = os.fsencode(tmp_path / 'images' / name)
        os.makedirs(folder)
        Image.fromarray(np.roll(NOISE, number, 0)).save(os.fsdecode(folder) + '/\xe4.png')
    env = dict(LOCPATH=str(locale.parent), LC_ALL='test', PYTHONUTF8='0', PYTHONPATH=str(ROOT))
    result = subprocess.run(
        [sys.executable, '-c', NAMES, str(tmp_path / 'images'), str(tmp_path / 'run')],
        env=os.environ | env | dict(PYTHONIOENCODING='utf-8'),
        capture_output=True,
        encoding='utf-8',
    )
    assert result.returncode == 0, result.stderr
    encoding, *found = result.stdout.splitlines()[-1].split()
    assert codecs.lookup(encoding) == codecs.lookup(charmap)
    assert found[:2] == ['2', '2'] and found[-1] == 'rot'


def test_images_with_colours_are_counted(tmp_path):
    gray = NOISE[..., 0]
    same = Image.fromarray(gray).convert('RGB')
    Image.fromarray(gray).save(tmp_path / 'gray.png')
    same.save(tmp_path / 'channels.png')
    same.rotate(90).save(tmp_path / 'channels.jpg', quality=60)
    same.rotate(180).quantize().save(tmp_path / 'palette.png')
    same.rotate(270).convert('RGBA').save(tmp_path / 'alpha.webp', quality=70)
    Image.fromarray(gray.astype(np.uint16) * 16).save(tmp_path / 'deep.png')
    assert scan_images(sorted(tmp_path.iterdir())).colored == 0
    Image.fromarray(NOISE).save(tmp_path / 'colours.png')
    spot = same.copy()
    spot.paste('red', (20, 20, 40, 40))
    spot.save(tmp_path / 'spot.jpg')
    Image.fromarray(NOISE[:20]).save(tmp_path / 'tiny.png')
    scan = scan_images(sorted(tmp_path.iterdir()))
    assert (scan.colored, len(scan.accepted)) == (2, 8)


def test_colours_of_images_that_the_range_of_the_set_leaves_out_are_not_counted(tmp_path):
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 256).save(tmp_path / 'gray.png')
    cv2.imwrite(str(tmp_path / 'faint.png'), NOISE.astype(np.uint16))
    scan = scan_images(sorted(tmp_path.iterdir()))
    assert (scan.colored, [path.stem for path in scan.accepted]) == (0, ['gray'])


def test_a_limit_of_pixels_that_is_no_number_is_named(tmp_path, monkeypatch):
    Image.new('L', (64, 64)).save(tmp_path / 'a.png')
    monkeypatch.setenv(LIMIT, 'many')
    (left_out,) = scan_images([tmp_path / 'a.png']).left_out
    assert left_out[1] == "unreadable: MMSNCLR_MAX_MEGAPIXELS='many' must be a number"


def test_a_lack_of_memory_is_named(tmp_path, monkeypatch):
    Image.fromarray(NOISE).save(tmp_path / 'a.png')

    def load(self):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, 'load', load)
    (left_out,) = scan_images([tmp_path / 'a.png']).left_out
    assert left_out[1] == 'unreadable: not enough memory to decode it'
