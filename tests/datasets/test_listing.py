"""Images that a user names, and their labels."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from mmsnclr.datasets import ImageList
from mmsnclr.datasets.label_files import find_images
from mmsnclr.datasets.listing import list_images, read_labels


def test_images_come_from_folders_lists_and_coco_files(digits, scenes, tmp_path):
    folder = digits / 'labelled' / 'val'
    expected = sorted(folder.rglob('*.png'))
    assert list_images([folder]) == list_images(str(folder)) == expected
    (tmp_path / 'list.txt').write_text(''.join(f'{path}\n\n' for path in expected[2::-1]))
    listed = list_images([tmp_path / 'list.txt', expected[0], expected[3]])
    assert listed == [*expected[2::-1], expected[3]]
    val = sorted((scenes / 'val').glob('*.png'))
    assert list_images([scenes / 'val.json'], scenes / 'val') == val
    shutil.copytree(scenes / 'val', tmp_path / 'val')
    shutil.copy(scenes / 'val.json', tmp_path / 'val')
    beside = [tmp_path / 'val' / path.name for path in val]
    assert list_images([tmp_path / 'val/val.json']) == beside


def test_a_script_is_no_list(tmp_path):
    (tmp_path / 'run.sh').write_text('#!/bin/sh\n')
    with pytest.raises(ValueError, match=r'run\.sh is a script'):
        list_images(tmp_path / 'run.sh')


def test_files_of_other_kinds_are_counted(tmp_path, capsys):
    for name in ('1.HEIC', '2.heic', 'notes.txt', 'README', '.hidden'):
        (tmp_path / name).touch()
    kinds = '2 .heic, 1 without suffix, 1 .txt'
    with pytest.raises(ValueError, match=f'looked for .* found {kinds}; convert these'):
        list_images([tmp_path])
    (tmp_path / 'a.png').touch()
    assert list_images([tmp_path]) == [tmp_path / 'a.png']
    assert capsys.readouterr().err == f'4 files of other kinds are not looked at: {kinds}\n'


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('list.txt', 'a.png\nb.png\n', r'lists 2 images, of which 2 are missing, .*/a\.png'),
        ('coco.json', '{"images": [{"file_name": "a.png"}]}', 'lists 1 images.*--image-root'),
        ('coco.json', '{"annotations": []}', "not in COCO's format"),
        ('coco.json', 'no json', 'is no json file'),
        ('coco.json', '{"images": [{"file_name": null}]}', "an image needs a 'file_name'"),
        ('empty.txt', '', 'no images in'),
    ],
)
def test_mistakes_in_lists_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        list_images([tmp_path / name])


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_files_as_windows_writes_them_are_read(scenes, tmp_path, encoding):
    images = sorted((scenes / 'val').glob('*.png'))
    lines = {
        'list.txt': ''.join(f'{path}\n' for path in images),
        'coco.json': (scenes / 'val.json').read_text(),
        'labels.csv': 'path,label\n' + ''.join(f'{path},a\n' for path in images),
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text, encoding)
    assert list_images(tmp_path / 'list.txt') == images
    assert list_images(tmp_path / 'coco.json', scenes / 'val') == images
    assert read_labels(tmp_path / 'labels.csv', images) == ['a'] * len(images)
    assert len(ImageList(str(tmp_path / 'list.txt'), pipeline=[])) == len(images)


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-16-le'])
def test_lists_in_another_encoding_are_named(tmp_path, encoding):
    (tmp_path / 'list.txt').write_text('\xe4.png', encoding)
    with pytest.raises(ValueError, match=r'list\.txt must be a text in UTF-8'):
        list_images(tmp_path / 'list.txt')
    with pytest.raises(ValueError, match=r'list\.txt must be a text in UTF-8'):
        ImageList(str(tmp_path / 'list.txt'), pipeline=[])


def test_folders_that_link_to_themselves_are_searched_once(digits, tmp_path):
    (tmp_path / 'linked').symlink_to(digits / 'unlabelled')
    os.symlink(tmp_path, tmp_path / 'loop')
    assert len(list_images([tmp_path, digits / 'unlabelled'])) == 96


def test_what_a_link_names_again_is_listed_once(digits, tmp_path):
    images = tmp_path / 'images'
    shutil.copytree(digits / 'unlabelled', images / 'a')
    (images / 'b').symlink_to(images / 'a')
    (images / 'c.png').symlink_to(images / 'a' / '00000.png')
    (images / 'd.png').symlink_to(images / 'nowhere.png')  # is said to be missing by the scan
    found = list_images(images)
    assert len(found) == len({path.resolve() for path in found}) == 96 + 1


def test_only_regular_files_are_images(tmp_path, capsys):
    os.mkfifo(tmp_path / 'a.jpg')
    (tmp_path / 'b.png').touch()
    assert list_images(tmp_path) == [tmp_path / 'b.png']
    assert '1 pipe or device' in capsys.readouterr().err


def test_folders_that_cannot_be_read_are_said(tmp_path, monkeypatch, capsys):
    def scandir(path):
        if str(path) == str(tmp_path / 'closed'):
            raise PermissionError(13, 'Permission denied', str(path))
        return os_scandir(path)

    os_scandir = os.scandir
    monkeypatch.setattr(os, 'scandir', scandir)
    (tmp_path / 'closed').mkdir()
    (tmp_path / 'a.png').touch()
    for find in (list_images, find_images):
        assert find(tmp_path) == [tmp_path / 'a.png']
        said = capsys.readouterr().err
        assert '1 folders cannot be read, the first: [Errno 13] Permission denied: ' in said
        assert str(tmp_path / 'closed') in said


@pytest.mark.parametrize(
    ('written', 'unseen'),
    [
        (['features.npz', 'projection.png'], 1),
        (['neighbors.html', 'neighbors.png'], 1),
        (['predictions.json', 'pictures/a.png'], 1),
        (['precision_recall.png', 'summary.md', 'pictures/00_a.jpg'], 2),
        (['study.json', 'curve.png'], 1),
    ],
)
def test_what_verbs_have_drawn_is_no_image_of_the_next_run(tmp_path, capsys, written, unseen):
    for name in ['a.png', 'pictures.png', *(f'out/{name}' for name in written)]:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ['a.png', 'pictures.png']
    assert f'{unseen} results of mmsnclr' in capsys.readouterr().err


@pytest.mark.parametrize(
    'line',
    ['{} 3', '{},cat', '{};cat', '{}\t3', '"{}"', "'{}'", '"{}" 3', '"{}","a, b"', '{} 0 1 1'],
)
@pytest.mark.parametrize('name', ['sub/a.png', 'sub/b, c.png', 'sub/d e.png', 'sub\\a.png'])
def test_lists_with_labels_quotes_or_backslashes_are_read(tmp_path, line, name):
    image = tmp_path / name.replace('\\', '/')
    image.parent.mkdir()
    image.touch()
    (tmp_path / 'list.txt').write_text(f'path,label\n{line.format(name)}\n')
    assert list_images(tmp_path / 'list.txt') == [image]


@pytest.mark.parametrize('heading', [',path,label', 'id;path', 'label\tscore\tpath'])
def test_a_csv_names_images_in_its_column(tmp_path, heading):
    for name in ('a.png', 'b, c.png'):
        (tmp_path / name).touch()
    rows = [heading] + [heading.replace('path', f'"{name}"') for name in ('b, c.png', 'a.png')]
    (tmp_path / 'set.csv').write_text('\n'.join(rows))
    assert list_images(tmp_path / 'set.csv') == [tmp_path / 'b, c.png', tmp_path / 'a.png']


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'utf-32'])
@pytest.mark.parametrize('name', ['C:\\photos\\sub\\a.png', '/home/other/sub/a.png', 'Sub/A.PNG'])
def test_paths_of_another_machine_are_found_and_said(tmp_path, capsys, name, encoding):
    folder = tmp_path / 'photos'
    (folder / 'sub').mkdir(parents=True)
    (folder / 'sub/a.png').touch()
    text = json.dumps(dict(images=[dict(id=1, file_name=name)]))
    (tmp_path / 'a.json').write_text(text, encoding)
    (tmp_path / 'a.txt').write_text(name)
    (tmp_path / 'a.csv').write_text(f'label,path\ncat,{name}\n')
    for source in ('a.json', 'a.txt', 'a.csv'):
        assert list_images([tmp_path / source], folder) == [folder / 'sub/a.png']
        assert '1 of 1 paths are spelt otherwise than the files' in capsys.readouterr().err
    assert read_labels(tmp_path / 'a.csv', [folder / 'sub/a.png'], folder) == ['cat']
    assert '1 of 1 paths are spelt otherwise than the files' in capsys.readouterr().err
    (tmp_path / 'a.csv').write_text(f'label,path\ncat,{name}\ndog,SUB/a.png\n')
    with pytest.raises(ValueError, match=r"several labels for 'SUB/a\.png', 'cat' and 'dog'"):
        read_labels(tmp_path / 'a.csv', [folder / 'sub/a.png'], folder)


@pytest.mark.parametrize(('there', 'listed'), [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_accents_are_found_in_either_form(tmp_path, there, listed):
    image = tmp_path / unicodedata.normalize(there, 'gr\xfcn.png')
    image.touch()
    name = unicodedata.normalize(listed, image.name)
    (tmp_path / 'list.txt').write_text(name, 'utf-8')
    (tmp_path / 'labels.csv').write_text(f'path,label\n{name},a\n', 'utf-8')
    assert list_images(tmp_path / 'list.txt') == [image]
    assert read_labels(tmp_path / 'labels.csv', [image]) == ['a']


def test_a_list_in_another_form_names_the_forms(tmp_path):
    (tmp_path / 'a.png').touch()
    (tmp_path / 'list.txt').write_text('1 a.png\n')
    with pytest.raises(
        FileNotFoundError, match=r'from --image-root .*"path label" or "path,label"'
    ):
        list_images(tmp_path / 'list.txt', tmp_path)


def test_a_picture_of_another_kind_is_named(tmp_path):
    (tmp_path / 'a.heic').write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r'a\.heic is neither a text nor one of \.avif'):
        list_images(tmp_path / 'a.heic')


def test_labels_come_from_a_csv(digits, tmp_path):
    images = list_images([digits / 'unlabelled'])[:2]
    (tmp_path / 'labels.csv').write_text(f'path,label\n{images[1]},b\n{images[0]},a\n')
    assert read_labels(tmp_path / 'labels.csv', images) == ['a', 'b']
    (tmp_path / 'labels.csv').write_text(f'path,label\n{images[1]},b\n')
    with pytest.raises(ValueError, match='no label for 1 of the 2 images'):
        read_labels(tmp_path / 'labels.csv', images)
    (tmp_path / 'labels.csv').write_text(f'path,label\n{images[1]},b\n{images[0]}\n')
    with pytest.raises(ValueError, match='no label for 1 of the 2 images'):
        read_labels(tmp_path / 'labels.csv', images)
    (tmp_path / 'labels.csv').write_text(f'path,label\n{images[0]},caf\xe9\n', 'latin-1')
    with pytest.raises(ValueError, match=r'labels\.csv must be a text in UTF-8'):
        read_labels(tmp_path / 'labels.csv', images)
    (tmp_path / 'labels.csv').write_text('file,class\n')
    with pytest.raises(ValueError, match="must have the columns 'path' and 'label'"):
        read_labels(tmp_path / 'labels.csv', images)
    text = f'path,label\n{images[0]},a\n{images[1]},b\n{images[0]},'
    (tmp_path / 'labels.csv').write_text(f'{text}a\n')
    assert read_labels(tmp_path / 'labels.csv', images) == ['a', 'b']
    (tmp_path / 'labels.csv').write_text(f'{text}b\n')
    with pytest.raises(ValueError, match=r"several labels for .*\.png', 'a' and 'b': keep one"):
        read_labels(tmp_path / 'labels.csv', images)


@pytest.mark.parametrize(
    'text', ['path, label\na.png, 1 ', 'label;path\n1;a.png', '\ufeffpath\tlabel\r\n"a.png"\t1\r\n']
)
def test_a_csv_may_be_parted_as_spreadsheets_do(tmp_path, text):
    (tmp_path / 'labels.csv').write_bytes(text.encode())
    assert read_labels(tmp_path / 'labels.csv', [tmp_path / 'a.png']) == ['1']


@pytest.mark.parametrize(
    ('names', 'labels'),
    [
        (['a/1.png', 'b/1.png'], 'a b'),
        (['train/a/images/1.png', 'train/b/images/1.png'], 'a b'),
        (['train/a/1.png', 'val/a/1.png', 'val/b/1.png'], 'a a b'),
        (['Training/a/1.png', 'dev/a/1.png', 'eval/b/1.png', 'holdout/b/1.png'], 'a a b b'),
        (['a/x/1.png', 'a/y/1.png', 'b/1.png'], 'a a b'),
    ],
)
def test_labels_are_the_first_folders_that_differ(capsys, names, labels):
    images = [Path('/data/set', name) for name in names]
    assert read_labels('folders', images) == labels.split()
    assert '2 classes by the names of folders: a, b' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['train/a/1.png', 'val/a/2.png'], 'all 2 images are of one class'),
        (['train/a/1.png', 'test/a/2.png', 'more/3.png'], 'test, train are .* them is more: move'),
        (['a/1.png', '2.png'], r"'/data/set/2\.png' lies in no folder of a class"),
    ],
)
def test_folders_that_are_no_classes_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        read_labels('folders', [Path('/data/set', name) for name in names])
