"""Images as detectors load them."""

import numpy as np
import pytest
from mmdet.registry import TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader

from mmsnclr.datasets.decoding import read_image
from mmsnclr.datasets.loading_errors import naming_lost_workers

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def load(path, **settings):
    return TRANSFORMS.build(dict(type='LoadAnyImage', **settings))(dict(img_path=str(path)))


def test_images_are_those_of_pretraining(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / 'turned.jpg', exif=exif)
    deep = PIXELS[..., 0].astype(np.uint16) * 16 + 100
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    (tmp_path / 'dim.pgm').write_bytes(b'P5 60 40 100\n' + (PIXELS[..., 0] % 101).tobytes())
    for name, levels, shape in (
        ('turned.jpg', None, (60, 40)),
        ('deep.png', (100, 4195), (40, 60)),
        ('dim.pgm', None, (40, 60)),
    ):
        loaded = load(tmp_path / name, levels=levels)
        assert loaded['img_shape'] == loaded['ori_shape'] == shape
        assert np.array_equal(loaded['img'], read_image(tmp_path / name, levels))
    assert np.array_equal(
        load(tmp_path / 'deep.png', levels=(100, 4195))['img'][..., 0], deep // 16 - 6
    )
    assert load(tmp_path / 'dim.pgm')['img'].max() == 255


def test_a_damaged_image_is_named(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / 'a.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'a.jpg').read_bytes()[:-300])
    with pytest.raises(ValueError, match=r'cut\.jpg cannot be decoded: image file is truncated'):
        load(tmp_path / 'cut.jpg')


class _Cut:
    """A set of one image that is damaged."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 1

    def __getitem__(self, number):
        return load(self.path)


def test_a_damaged_image_is_one_sentence_though_another_process_loads_it(tmp_path):
    (tmp_path / 'cut.jpg').write_bytes(b'no image')
    loader = DataLoader(_Cut(tmp_path / 'cut.jpg'), num_workers=1)
    said = (
        r'^images cannot be loaded: .*cut\.jpg is not a usable image: not an image of a known kind$'
    )
    with pytest.raises(OSError, match=said), naming_lost_workers():
        next(iter(loader))
