"""Views depend on seed, epoch, image and view, and on nothing else."""

import random

import cv2
import numpy as np
import torch

from mmsnclr.datasets import AugmentedViews, SeededMultiView
from mmsnclr.datasets.transforms import ReadImage
from mmsnclr.datasets.views import AugmentedImage

PIPELINE = [
    dict(type='RandomResizedCrop', scale=16, crop_ratio_range=(0.3, 1.0)),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4),
    dict(type='GaussianBlur', magnitude_range=(0.1, 1.0), magnitude_std='inf', prob=0.5),
]
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def views(seed=0, epoch=0, **info):
    transform = SeededMultiView([PIPELINE], [2])
    transform.set_epoch(seed, epoch)
    return transform(dict(img=IMAGE.copy(), img_shape=(32, 32), **info))['img']


def test_the_same_image_gives_the_same_views_whatever_was_drawn_before():
    first = views(img_path='a.png')
    random.random(), np.random.rand(), torch.rand(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, views(img_path='a.png')))


def test_seed_epoch_image_and_view_each_change_the_view():
    base = views(img_path='a.png')
    assert not np.array_equal(base[0], base[1])
    for other in (
        views(img_path='b.png'),
        views(img_path='a.png', epoch=1),
        views(img_path='a.png', seed=1),
    ):
        assert not np.array_equal(base[0], other[0])


def test_names_may_be_of_any_bytes():
    assert not np.array_equal(
        views(img_path='caf\udce9.png')[0], views(img_path='caf\udce8.png')[0]
    )


def test_the_index_tells_images_apart_where_there_is_no_path():
    assert not np.array_equal(views(sample_idx=0)[0], views(sample_idx=1)[0])
    assert np.array_equal(views(sample_idx=1)[0], views(sample_idx=1)[0])


def test_global_generators_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    views(img_path='a.png')
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_without_an_epoch_it_is_plain_multi_view():
    transform = SeededMultiView([PIPELINE], [2])
    make = lambda: transform(dict(img=IMAGE.copy(), img_shape=(32, 32), img_path='a.png'))['img']  # noqa: E731
    assert not np.array_equal(make()[0], make()[0])


def test_an_image_is_read_as_the_scan_has_seen_it_or_taken_as_it_is_given(tmp_path):
    deep = (IMAGE[..., 0].astype(np.uint16) << 2) + 500
    cv2.imwrite(str(tmp_path / 'deep.png'), deep)
    read = ReadImage(levels=(500, 1523))
    found = read(dict(img_path=str(tmp_path / 'deep.png'), gt_label=1))
    assert np.array_equal(found['img'], np.repeat(IMAGE[..., :1], 3, axis=2))
    assert found['gt_label'] == 1 and found['img_shape'] == (32, 32)
    long = np.repeat(IMAGE, 40, axis=1)
    assert read(dict(img=long))['img'].shape == (32, 16 * 32, 3)


def test_an_augmented_image_is_the_first_of_the_views():
    settings = dict(views=[dict(size=16)])
    image, views = AugmentedImage(**settings), AugmentedViews(**settings)
    for transform in (image, views):
        transform.set_epoch(0, 0)
    info = dict(img=IMAGE, img_path='a.png')
    assert np.array_equal(image(dict(info))['img'], views(dict(info))['img'][0])
