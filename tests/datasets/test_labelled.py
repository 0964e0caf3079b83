"""A labelled set is parted without telling the one part of the other."""

import shutil
from collections import Counter

import cv2
import numpy as np
import pytest

from mmsnclr.datasets.labelled import read_labelled


def write(folder, names, seed=0):
    """One picture of noise, which no other is equal to, for each name."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (24, 20, 3), dtype=np.uint8))
    return folder


def test_a_fifth_of_each_class_is_drawn_by_the_seed(tmp_path):
    names = [f'{name}/{n}.png' for name, count in (('a', 30), ('b', 10)) for n in range(count)]
    folder = write(tmp_path / 'set', names)
    drawn = [read_labelled(folder, tmp_path / 'out', seed=seed) for seed in (0, 0, 1)]
    assert Counter(drawn[0].val.values()) == dict(a=6, b=2)
    assert drawn[0].val == drawn[1].val != drawn[2].val
    assert not drawn[0].val.keys() & drawn[0].train.keys()
    assert drawn[0].classes == ['a', 'b'] and drawn[0].scan.median_edge == 20
    listed = (tmp_path / 'out/val.txt').read_text().splitlines()
    assert listed == [str(path) for path in drawn[2].val]


def test_each_of_many_small_classes_can_be_drawn_from(tmp_path):
    folder = write(tmp_path / 'set', [f'{name}/{n}.png' for name in 'abcdefgh' for n in (0, 1)])
    images = read_labelled(folder, tmp_path / 'out')
    assert set(images.val.values()) == set(images.train.values()) == set('abcdefgh')


def test_an_image_of_both_parts_is_learned_from_only(tmp_path, capsys):
    names = [f'{part}/{name}/{n}.png' for part in ('train', 'VAL') for name in 'ab' for n in '01']
    folder = write(tmp_path / 'set', names)
    write(folder, ['test/a/0.png', 'test/b/0.png'], seed=1)
    shutil.copy(folder / 'train/b/0.png', folder / 'VAL/a/0.png')
    images = read_labelled(folder, tmp_path / 'out')
    assert len(images.train) == 4 and folder / 'VAL/a/0.png' not in images.val
    assert Counter(images.val.values()) == dict(a=1, b=2)
    assert 'duplicate of' in (tmp_path / 'out/left_out.csv').read_text()
    told = capsys.readouterr()
    assert '2 images of ' in told.out and '1 images have equals of another class' in told.err


def test_a_test_part_validates_where_there_is_no_other(tmp_path):
    names = [f'{part}/{name}/{n}.png' for part in ('train', 'test') for name in 'ab' for n in '01']
    images = read_labelled(write(tmp_path / 'set', names), tmp_path / 'out')
    assert {path.parts[-3] for path in images.val} == {'test'} and len(images.train) == 4


def test_a_part_without_usable_images_is_refused(tmp_path):
    folder = write(tmp_path / 'set', [f'train/{name}/{n}.png' for name in 'ab' for n in '01'])
    (folder / 'val/a').mkdir(parents=True)
    (folder / 'val/a/0.png').write_bytes(b'')
    with pytest.raises(ValueError, match='no image to validate on is usable'):
        read_labelled(folder, tmp_path / 'out')
