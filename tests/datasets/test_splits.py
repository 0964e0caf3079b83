"""Labelled images in two parts."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mmsnclr.datasets.splits import draw_part, read_split


@pytest.fixture
def labelled(digits, tmp_path):
    """Six pictures in each of two class folders."""
    for name in ('0', '1'):
        (tmp_path / 'all' / name).mkdir(parents=True)
        for path in sorted((digits / 'unlabelled').glob(f'*{name}.png'))[:6]:
            shutil.copy(path, tmp_path / 'all' / name)
    return tmp_path / 'all'


def parts(split):
    return [
        [
            (path.parent.name, path.name)
            for path, y in zip(map(Path, split.paths), split.tested)
            if y == part
        ]
        for part in (False, True)
    ]


def test_a_share_of_each_class_is_drawn_by_the_seed():
    labels = ['a'] * 50 + ['b'] * 4 + ['c']
    drawn = draw_part(labels, 0.2, 0)
    assert [int(drawn[part].sum()) for part in (slice(50), slice(50, 54), slice(54, 55))] == [
        10,
        1,
        0,
    ]
    assert (drawn == draw_part(labels, 0.2, 0)).all() and (drawn != draw_part(labels, 0.2, 1)).any()
    assert draw_part(['a', 'a', 'b', 'b'], 0.9, 0).sum() == 2  # one of each stays


def test_folders_of_classes_are_parted_by_a_draw_that_is_said(labelled, capsys):
    split = read_split(labelled, 'folders')
    learned, tested = parts(split)
    assert len(learned) == 10 and sorted(name for name, _ in tested) == ['0', '1']
    assert split.labels == [Path(path).parent.name for path in split.paths]
    assert '2 of 12 images were drawn (seed 0), to test on; 10 others' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['val', 'test', 'Validation'])
def test_train_and_val_in_a_folder_are_the_parts(digits, tmp_path, name):
    shutil.copytree(digits / 'labelled/train', tmp_path / 'train')
    shutil.copytree(digits / 'labelled/val', tmp_path / name)
    split = read_split(tmp_path, 'folders')
    assert [Path(path).parts[-3] for path in split.paths] == np.where(
        split.tested, name, 'train'
    ).tolist()
    assert set(split.labels) == set('0123456789')


def test_what_is_tested_on_is_not_learned_from(labelled, capsys):
    (labelled.parent / 'val.txt').write_text('all/0/' + '\n'.join(_names(labelled / '0')[:1]))
    rows = [f'all/{name}/{file},{name}' for name in '01' for file in _names(labelled / name)]
    (labelled.parent / 'labels.csv').write_text('path,label\n' + '\n'.join(rows))
    split = read_split(labelled, labelled.parent / 'labels.csv', labelled.parent / 'val.txt')
    learned, tested = parts(split)
    assert tested == [('0', _names(labelled / '0')[0])] and len(learned) == 11
    assert not set(learned) & set(tested)
    assert '1 images are those of --val, 1 of which are in' in capsys.readouterr().out


def test_folders_elsewhere_have_classes_of_their_own_names(digits, labelled):
    shutil.copytree(digits / 'labelled/val/0', labelled.parent / 'other/place/0')
    shutil.copytree(digits / 'labelled/val/1', labelled.parent / 'other/place/1')
    split = read_split(labelled, 'folders', labelled.parent / 'other')
    assert ((~split.tested).sum(), set(split.labels)) == (12, {'0', '1'})
    assert set(np.array(split.labels)[split.tested]) == {'0', '1'}


def test_a_split_that_measures_nothing_is_refused(digits, labelled):
    labels = labelled.parent / 'labels.csv'
    rows = [f'{path},same' for path in labelled.rglob('*.png')]
    labels.write_text('path,label\n' + '\n'.join(rows))
    with pytest.raises(ValueError, match="all images are of one class, 'same'"):
        read_split(labelled, labels)
    with pytest.raises(ValueError, match='no image is left to learn from'):
        read_split(labelled, 'folders', labelled)
    shutil.copytree(digits / 'labelled/val', labelled.parent / 'other')
    with pytest.raises(ValueError, match=r"class '2' .* is not among .*, nor are 7 others"):
        read_split(labelled, 'folders', labelled.parent / 'other')


def _names(folder):
    return sorted(path.name for path in folder.iterdir())
