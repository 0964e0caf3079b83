"""Images that a user names, and their labels."""

import os
import shutil

import pytest

from mmsnclr.datasets.listing import list_images, read_labels
from mmsnclr.datasets.scan import scan_images


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
        ('coco.json', 'no json', "not in COCO's format"),
        ('empty.txt', '', 'no images in'),
    ],
)
def test_mistakes_in_lists_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        list_images([tmp_path / name])


def test_files_as_windows_writes_them_are_read(scenes, tmp_path):
    images = sorted((scenes / 'val').glob('*.png'))
    lines = {
        'list.txt': ''.join(f'{path}\n' for path in images),
        'coco.json': (scenes / 'val.json').read_text(),
        'labels.csv': 'path,label\n' + ''.join(f'{path},a\n' for path in images),
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text, 'utf-8-sig')
    assert list_images(tmp_path / 'list.txt') == images
    assert list_images(tmp_path / 'coco.json', scenes / 'val') == images
    assert read_labels(tmp_path / 'labels.csv', images) == ['a'] * len(images)


def test_folders_that_link_to_themselves_are_searched_once(digits, tmp_path):
    (tmp_path / 'linked').symlink_to(digits / 'unlabelled')
    os.symlink(tmp_path, tmp_path / 'loop')
    assert len(list_images([tmp_path, digits / 'unlabelled'])) == 2 * 96
    scan = scan_images(list_images([tmp_path, digits / 'unlabelled']))
    assert len(scan.accepted) == 96


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
