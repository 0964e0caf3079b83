"""A labelled set is parted without telling the one part of the other."""

import shutil
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmsnclr.datasets.labelled import draw_part, list_labelled, part, scan_labelled


def write(folder, names, seed=0):
    """One picture of noise, which no other is equal to, for each name."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (24, 20, 3), dtype=np.uint8))
    return folder


def in_parts(*parts, classes='ab'):
    return [f'{part}/{name}/{n}.png' for part in parts for name in classes for n in '01']


def table(path, rows):
    path.write_text('\n'.join(['path,label', *(','.join(row) for row in rows)]))
    return path


def scanned(folder, out, **options):
    return scan_labelled(out, *list_labelled(folder), **options)


@pytest.fixture
def labelled(tmp_path):
    """Six pictures in each of two class folders."""
    return write(tmp_path / 'all', [f'{name}/{n}.png' for name in 'ab' for n in range(6)])


def test_a_share_of_each_class_is_drawn_by_the_seed():
    labels = ['a'] * 50 + ['b'] * 4 + ['c']
    drawn = draw_part(labels, 0.2, 0)
    assert Counter(np.array(labels)[drawn].tolist()) == dict(a=10, b=1)
    assert (drawn == draw_part(labels, 0.2, 0)).all() and (drawn != draw_part(labels, 0.2, 1)).any()
    assert draw_part(['a', 'a', 'b', 'b'], 0.9, 0).sum() == 2  # one of each stays


def test_what_is_validated_on_is_drawn_of_usable_images_and_listed(labelled, tmp_path, capsys):
    (labelled / 'a/5.png').write_bytes(b'')
    drawn = [scanned(labelled, tmp_path / 'out', seed=seed) for seed in (0, 0, 1)]
    assert sorted(drawn[0].val.values()) == ['a', 'b'] and len(drawn[0].train) == 9
    assert drawn[0].val == drawn[1].val != drawn[2].val
    assert not drawn[0].val.keys() & drawn[0].train.keys()
    assert drawn[0].classes == ['a', 'b'] and drawn[0].scan.median_edge == 20
    listed = (tmp_path / 'out/val.txt').read_text().splitlines()
    assert listed == [str(path) for path in drawn[2].val]
    assert '2 images to validate on, 9 to learn from; no --val' in capsys.readouterr().out


def test_a_class_of_one_image_is_learned_from_and_said(labelled, capsys):
    write(labelled, ['c/0.png'], seed=1)
    classes, _ = list_labelled(labelled)
    assert {classes[path] for path in part(classes)} == {'a', 'b'}
    assert 'class c has a single image, which is learned from only' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['val', 'test', 'Validation', 'dev'])
def test_train_and_val_in_a_folder_are_the_parts(tmp_path, name):
    classes, val = list_labelled(write(tmp_path, in_parts('train', name)))
    assert {path.parts[-3] for path in val} == {name} and len(val) == 4
    assert {path.parts[-3] for path in classes.keys() - val} == {'train'}
    assert all(classes[path] == path.parent.name for path in classes)


def test_train_and_val_as_tars_are_the_parts(tmp_path):
    folder = write(tmp_path, in_parts('train', 'val'))
    expected = list_labelled(folder)
    for name in ('train', 'val'):
        with tarfile.open(folder / f'{name}.tar', 'w') as tar:
            tar.add(folder / name, '.')
        shutil.rmtree(folder / name)

    def extracted(paths):
        return [Path(str(path).replace('.tar', '')) for path in paths]

    classes, val = list_labelled(folder)
    assert (dict(zip(extracted(classes), classes.values())), set(extracted(val))) == expected


@pytest.mark.parametrize('held_out', [None, 'val', 'test', 'val.txt', 'all.txt'])
def test_what_is_not_validated_on_of_other_parts_is_not_learned_from(tmp_path, capsys, held_out):
    folder = write(tmp_path / 'set', in_parts('train', 'val', 'test'))
    for name, part_of_all in (('val.txt', 'val/?'), ('all.txt', '*/?')):
        listed = sorted(map(str, folder.glob(f'{part_of_all}/0.png')))
        (folder / name).write_text('\n'.join(listed))
    classes, val = list_labelled(folder, val=held_out and folder / held_out)
    there = Counter(path.parts[-3] for path in classes)
    told = capsys.readouterr().out
    if held_out == 'all.txt':  # no part
        assert len(val) == 6 and there == dict(train=4, val=4, test=4) and 'looked' not in told
    else:
        part_name, other = ('test', 'val') if held_out == 'test' else ('val', 'test')
        assert {path.parts[-3] for path in val} == {part_name}
        assert there == {'train': 4, part_name: 4}
        assert f'4 images of {folder / other} are not looked at: {part_name} is there' in told


def test_an_image_of_both_parts_is_learned_from_only(tmp_path, capsys):
    folder = write(tmp_path / 'set', in_parts('train', 'VAL'))
    write(folder, ['test/a/0.png', 'test/b/0.png'], seed=1)
    shutil.copy(folder / 'VAL/b/0.png', folder / 'VAL/a/2.png')
    shutil.copy(folder / 'train/b/0.png', folder / 'VAL/a/0.png')
    images = scanned(folder, tmp_path / 'out')
    assert len(images.train) == 4 and folder / 'VAL/a/0.png' not in images.val
    assert Counter(images.val.values()) == dict(a=2, b=1)
    assert 'duplicate of' in (tmp_path / 'out/left_out.csv').read_text()
    told = capsys.readouterr()
    assert '2 images of ' in told.out and '2 images have equals of another class' in told.err


@pytest.mark.parametrize('folder', ['all', 'linked'])
def test_what_is_validated_on_is_not_learned_from(labelled, tmp_path, capsys, folder):
    rows = [(f'{p.parent.name}/{p.name}', p.parent.name.upper()) for p in labelled.rglob('*.png')]
    csv = table(labelled / 'all.csv', rows)
    (tmp_path / 'linked').symlink_to(labelled)
    (tmp_path / 'val.txt').write_text(f'{folder}/a/0.png')
    for images, labels in ((labelled, csv), (csv, None)):
        classes, val = list_labelled(images, labels, tmp_path / 'val.txt')
        assert val == part(classes, val) == {tmp_path / folder / 'a/0.png'} and len(classes) == 12
        assert set(classes.values()) == {'A', 'B'}
        told = capsys.readouterr().out
        assert f'1 images of {images} are those of --val: they are not learned from' in told
        assert '1 images to validate on, 11 to learn from\n' in told


def test_images_elsewhere_have_labels_of_their_own(labelled, tmp_path):
    other = write(tmp_path / 'other', in_parts('place'), seed=1)
    csv = table(tmp_path / 'val.csv', [('other/place/a/0.png', 'b'), ('other/place/b/0.png', 'a')])
    for source, expected in ((other, dict(a=2, b=2)), (csv, dict(a=1, b=1))):
        classes, val = list_labelled(labelled, val=source)
        assert len(classes.keys() - val) == 12
        assert Counter(classes[path] for path in val) == expected
    assert classes[other / 'place/a/0.png'] == 'b'


@pytest.mark.parametrize(
    'names',
    [
        ['val/a/0.png', 'val/a/1.png'],
        ['val/a/x/0.png', 'val/a/y/1.png'],
        ['val/a/0.png', 'val/a/y/1.png'],
        ['a/x/0.png', 'a/y/1.png'],
    ],
)
def test_images_of_one_class_have_it_by_the_folders_to_learn_from(labelled, tmp_path, names):
    folder = write(tmp_path / 'other', names, seed=1) / names[0].split('/')[0]
    with tarfile.open(tmp_path / f'{folder.name}.tar', 'w') as tar:
        tar.add(folder, '.')
    for source in (folder, tmp_path / f'{folder.name}.tar'):
        classes, val = list_labelled(labelled, val=source)
        assert [classes[path] for path in part(classes, val)] == ['a', 'a']


def test_a_split_that_measures_nothing_is_refused(labelled, tmp_path):
    csv = table(tmp_path / 'labels.csv', [(str(path), 'same') for path in labelled.rglob('*.png')])
    with pytest.raises(ValueError, match='all images are of one class, same'):
        part(*list_labelled(labelled, csv))
    with pytest.raises(ValueError, match='no image is left to learn from'):
        part(*list_labelled(labelled, val=labelled))
    other = write(tmp_path / 'other', in_parts('.', classes='bcdefghij'), seed=1)
    with pytest.raises(ValueError, match='class c, d, e, f, g and 3 more of the images to val'):
        part(*list_labelled(labelled, val=other))


def test_a_part_without_usable_images_is_refused(tmp_path):
    folder = write(tmp_path / 'set', in_parts('train'))
    (folder / 'val/a').mkdir(parents=True)
    (folder / 'val/a/0.png').write_bytes(b'')
    with pytest.raises(ValueError, match='no image is left to validate on'):
        scanned(folder, tmp_path / 'out')
