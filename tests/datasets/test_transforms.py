"""Views depend on seed, epoch, image and view, and on nothing else."""

import random

import numpy as np
import torch

from mmsnclr.datasets import SeededMultiView

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
