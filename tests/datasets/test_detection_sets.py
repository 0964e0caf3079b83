"""YOLO and Pascal VOC sets are read as COCO's are, and their mistakes named."""

import json
import os
import shutil

import pytest
from mmengine.utils import mkdir_or_exist
from PIL import Image

from mmsnclr.datasets.detection_sets import read_sets

SQUARE = '0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5'
VOC_OBJECT = (
    '<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{xmin}</xmin>'
    '<ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object>'
)


def image(path, orientation=1, size=(80, 120)):
    mkdir_or_exist(str(path.parent))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', size).save(path, exif=exif)


def voc(path, *objects, size='<size><width>80</width><height>120</height></size>', name=''):
    mkdir_or_exist(str(path.parent))
    texts = (VOC_OBJECT.format(**dict(name='cat', difficult=0, xmin=11) | o) for o in objects)
    path.write_text(f'<annotation><filename>{name}</filename>{size}{"".join(texts)}</annotation>')


@pytest.fixture
def yolo(tmp_path):
    """A set with a box, a polygon and an image without objects; two more to validate on."""
    labels = dict(a='1 0.5 0.5 0.5 0.25\n', b=f'0 {SQUARE}\n\n', empty='')
    for part, names in (('train', ['a', 'b', 'empty', 'none']), ('val', ['a'])):
        (tmp_path / 'labels' / part).mkdir(parents=True)
        for name in names:
            image(tmp_path / 'images' / part / f'{name}.jpg')
            if name in labels:
                (tmp_path / 'labels' / part / f'{name}.txt').write_text(labels[name])
    text = 'train: images/train\nval: images/val\nnc: 2\nnames: [cat, 7]\n'
    (tmp_path / 'data.yaml').write_text(text)
    return tmp_path


def read(source, images=None, skip_bad=False):
    return read_sets(source, images, None, None, source.parent / 'out', skip_bad, seed=0)


def test_yolo_is_read_with_its_validation_set(yolo, capsys):
    train, val = read(yolo / 'data.yaml')
    by_name = {i['id']: i['file_name'] for i in train.content['images']}
    assert list(by_name.values()) == ['a.jpg', 'b.jpg', 'empty.jpg', 'none.jpg']
    box, polygon = train.content['annotations']
    assert [by_name[a['image_id']] for a in (box, polygon)] == ['a.jpg', 'b.jpg']
    assert box['bbox'] == [20, 45, 40, 30] and 'segmentation' not in box
    assert polygon['bbox'] == [20, 30, 40, 30]
    assert polygon['segmentation'] == [[20, 30, 60, 30, 60, 60, 20, 60]]
    assert [c['name'] for c in train.content['categories']] == ['cat', '7']
    assert (box['category_id'], polygon['category_id']) == (1, 0)
    assert val.images == yolo / 'images/val' and len(val.content['annotations']) == 1
    said = capsys.readouterr().out
    assert '4 images (2 without objects), 2 objects: 7 1, cat 1' in said and 'too good' not in said
    assert f"In COCO's format they are written to {yolo / 'out/train.json'}" in said
    assert read(yolo)[1] == val._replace(file=yolo.parent / 'out/val.json')


def test_yolo_lies_as_tools_write_it(yolo):
    train, val = read(yolo / 'data.yaml')
    texts = [  # of Roboflow; a list of images; from another folder; a class by its number
        'train: ../images/train\nval: ../images/val\nnames: {0: cat, 1: "7"}\n',
        'train: train.txt\nval: images/val\nnames: [cat, 7]\n',
        f'path: {yolo}\ntrain: [images/train]\nval: [images/val]\nnames: [cat, 7]\n',
        'path: .\\\ntrain: .\\windows.txt\nval: images\\val\nnames: [cat, 7]\n',
    ]
    for file, line in (('train', './images/train/{}\n'), ('windows', 'images\\train\\{}\r\n')):
        lines = [line.format(image['file_name']) for image in train.content['images']]
        (yolo / f'{file}.txt').write_text(''.join(lines))
    for text in texts:
        (yolo / 'data.yaml').write_text(text)
        assert [part.content for part in read(yolo)] == [train.content, val.content]
    # Images to validate on that are those to learn from are of no use.
    (yolo / 'data.yaml').write_text('train: images/train\nval: images/train\nnames: [cat, 7]\n')
    assert [len(part.content['annotations']) for part in read(yolo)] == [1, 1]
    for part in ('images/train/._a.jpg', 'labels/train/._a.txt'):
        (yolo / part).write_bytes(b'of macOS')
    # Label Studio writes the classes alone, labelImg the labels beside the images.
    (yolo / 'data.yaml').unlink()
    (yolo / 'classes.txt').write_text('cat\n7\n')
    assert sum(len(part.content['annotations']) for part in read(yolo)) == 3
    (yolo / 'labels/train/a.txt').rename(yolo / 'images/train/a.txt')
    assert sum(len(part.content['annotations']) for part in read(yolo)) == 3


def test_images_that_are_learned_and_validated_on_are_told_of(yolo, capsys):
    (yolo / 'data.yaml').write_text('train: images\nval: images/val\nnames: [cat, 7]\n')
    read(yolo)
    said = capsys.readouterr().out
    assert '1 of 1 images to validate on are learned, too' in said
    assert f'such as {yolo / "images/val/a.jpg"}' in said


def test_a_line_that_is_repeated_and_turned_boxes_are_said(yolo, capsys):
    (yolo / 'labels/train/b.txt').write_text(f'0 {SQUARE}\n1 {SQUARE}\n0 {SQUARE}\n')
    (yolo / 'labels/train/a.txt').unlink()
    train, _ = read(yolo / 'data.yaml')
    assert len(train.content['annotations']) == 2
    said = capsys.readouterr().out
    line = 'labels/train/b.txt: repeated annotation, annotation line 3, b.jpg: it says the same as'
    assert f'{line} line 1: left out' in said
    assert 'data.yaml (train): all of its 2 polygons have 4 corners, as turned boxes (OBB)' in said


def test_parts_and_files_of_one_name_are_told_apart(yolo, content, scenes, capsys):
    for part in ('train', 'val'):
        (yolo / f'images/{part}/other.jpg').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='--skip-bad') as caught:
        read(yolo)
    for part in ('train', 'val'):
        assert f'  images/{part}/other.jpg: image unreadable, other.jpg: ' in str(caught.value)
    read(yolo / 'data.yaml', skip_bad=True)
    assert 'data.yaml (val): 1 images, 1 objects' in capsys.readouterr().out
    for part in ('train', 'valid'):  # as of Roboflow
        (yolo / part).mkdir()
        content['annotations'][0]['bbox'] = [500, 500, 10, 10]
        (yolo / part / 'coco.json').write_text(json.dumps(content))
    files = [yolo / part / 'coco.json' for part in ('train', 'valid')]
    with pytest.raises(ValueError, match='--skip-bad') as caught:
        read_sets(files[0], scenes / 'train', files[1], None, yolo / 'out', False, seed=0)
    assert all(f'  {file}: box outside the image' in str(caught.value) for file in files)


def test_what_is_left_out_with_an_image_is_named_by_its_label_file(yolo, devkit):
    (yolo / 'images/train/a.jpg').write_bytes(b'nothing')
    (devkit / 'JPEGImages/a.jpg').write_bytes(b'nothing')
    for source, line in (
        (yolo, 'labels/train/a.txt: image left out, annotation line 1, a.jpg: '),
        (devkit, 'Annotations/a.xml: image left out, annotation object 2, a.jpg: '),
    ):
        with pytest.raises(ValueError, match='--skip-bad') as caught:
            read(source)
        assert f'  {line}' in str(caught.value)


def test_only_regular_files_are_images_of_a_set(yolo):
    os.mkfifo(yolo / 'images/train/pipe.jpg')
    (yolo / 'labels/train/pipe.txt').write_text('0 0.5 0.5 0.5 0.5')
    with pytest.raises(ValueError, match=r'labels/train/pipe\.txt: image missing'):
        read(yolo)
    (yolo / 'labels/train/pipe.txt').unlink()
    assert len(read(yolo)[0].content['images']) == 4


def test_linked_folders_of_a_set_are_looked_into_once(yolo, devkit):
    def counts():
        return [sum(len(p.content['images']) for p in read(source)) for source in (yolo, devkit)]

    (devkit / 'ImageSets/Main/train.txt').unlink()
    before = counts()
    for name in ('images/train', 'labels/train', 'voc/JPEGImages', 'voc/Annotations'):
        folder, elsewhere = yolo / name, yolo / 'elsewhere' / name
        elsewhere.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(elsewhere)
        folder.mkdir()
        (folder / 'more').symlink_to(elsewhere)
        (folder / 'again').symlink_to(folder)
    assert counts() == before


def test_boxes_are_meant_on_the_upright_image(yolo):
    image(yolo / 'images/train/a.jpg', orientation=6, size=(120, 80))
    train, _ = read(yolo)
    assert train.content['annotations'][0]['bbox'] == [20, 45, 40, 30]
    assert train.content['images'][0] | dict(width=80, height=120) == train.content['images'][0]


def test_what_is_wrong_in_a_yolo_set_is_named_by_file_and_line(yolo):
    lines = {
        '2 0.5 0.5 0.5 0.5': ('unknown class', '2 is not among the names (0 to 1)'),
        '0.5 0.5 0.5 0.5 0.5': ('unknown class', '0.5 is not'),
        '0 40 60 20 20': ('coordinates outside 0 to 1', 'they look like pixels'),
        '0 0.5 -0.5 0.5 0.5': ('coordinates outside 0 to 1', '-0.5 in'),
        '0 nan 0.5 0.5 0.5': ('coordinates outside 0 to 1', 'nan in'),
        f'0 {SQUARE} 0.5': ('line', '9 numbers after the class'),
        '0 0.1 0.1 0.2 0.2 0.9': ('line', '5 numbers after the class'),
        'cat 0.5 0.5 0.5 0.5': ('line', 'has what is no number'),
        '0 0.1 0.1 0.1 0.1 0.1 0.1': ('degenerate polygon', 'cover no pixel'),
        '0 0.01 0.5 0.9 0.5': ('box partly outside the image', 'cut at the edge'),
        '0 0 0.5 0.9 0.5': ('box partly outside the image', 'cut at the edge'),
        '0 0.5 0.5 0 0.5': ('box of less than a pixel', 'left out'),
    }
    (yolo / 'labels/train/a.txt').write_text('\n'.join(lines))
    (yolo / 'labels/train/gone.txt').write_text('0 0.5 0.5 0.5 0.5')
    (yolo / 'labels/train/none.txt').write_bytes(b'\x80\xff\x00')
    (yolo / 'images/train/empty.jpg').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='--skip-bad') as caught:
        read(yolo / 'data.yaml')
    said = str(caught.value).splitlines()
    for number, (kind, detail) in enumerate(lines.values(), start=1):
        start = f'  labels/train/a.txt: {kind}, annotation line {number}, a.jpg: '
        assert any(line.startswith(start) and detail in line for line in said), (kind, said)
    for start in (
        '  labels/train/gone.txt: image missing, gone: ',
        '  labels/train/none.txt: label file, none.jpg: ',
        '  labels/train/empty.txt: image unreadable, empty.jpg: ',
    ):
        assert any(line.startswith(start) for line in said), said
    train, _ = read(yolo / 'data.yaml', skip_bad=True)
    assert [i['file_name'] for i in train.content['images']] == ['a.jpg', 'b.jpg']


def test_a_listed_image_that_is_missing_is_a_mistake(yolo):
    names = ['a.jpg', 'b.jpg', 'gone.jpg']
    (yolo / 'train.txt').write_text(''.join(f'images/train/{name}\n' for name in names))
    (yolo / 'data.yaml').write_text('train: train.txt\nnames: [cat, 7]\n')
    with pytest.raises(ValueError, match=r'image missing, gone\.jpg: no file'):
        read(yolo)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('names: [cat, 7]', "'train'"),
        ('train: images/train', "'names' must be"),
        ('train: images/train\nnames: [cat]\nnc: 2', "'nc' is 2, and there are 1"),
        ("train: images/train\nnames: [cat]\nnc: '2'", "'nc' is 2, and there are 1"),
        ('train: images/train\nnames: [cat, no]', "'names' has False.*quotes"),
        ('train: images/train\nnames: [cat]\nkpt_shape: [3, 2]', 'is of keypoints'),
        ('train: images/other\nnames: [cat, 7]', 'no folder or list .*images/other'),
        ('train: labels/train\nnames: [cat, 7]', 'no images in'),
        ('train: images/val/\nnames: [cat, 7]', 'none of its 1 images .*labels/val/a.txt'),
        ('train: [', 'no yaml file'),
        ('cat', 'it has no names'),
    ],
)
def test_a_description_that_does_not_suit_is_named(yolo, text, message):
    (yolo / 'data.yaml').write_text(text)
    (yolo / 'labels/val/a.txt').unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(yolo / 'data.yaml')


@pytest.fixture
def devkit(tmp_path):
    """A set as Pascal VOC's."""
    tmp_path = tmp_path / 'voc'
    for name in ('a', 'b', 'c', 'unlisted'):
        image(tmp_path / 'JPEGImages' / f'{name}.jpg')
    voc(tmp_path / 'Annotations/a.xml', {}, dict(name='dog', difficult=1))
    voc(tmp_path / 'Annotations/b.xml', dict(name='dog', xmin=0), size='')
    voc(tmp_path / 'Annotations/c.xml', {})
    lists = tmp_path / 'ImageSets/Main'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('a\nb\n')
    (lists / 'val.txt').write_text('c 1\n')
    return tmp_path


def test_voc_is_read_with_its_lists(devkit, capsys):
    train, val = read(devkit)
    assert [i['file_name'] for i in train.content['images']] == ['a.jpg', 'b.jpg']
    assert [c['name'] for c in train.content['categories']] == ['cat', 'dog']
    boxes = [(a['category_id'], a['bbox'], a['iscrowd']) for a in train.content['annotations']]
    # Whole pixels, numbered from 1, those at the edges included; difficult ones are ignored.
    box = [10, 20, 30, 40]
    assert boxes == [(1, box, 0), (2, box, 1), (2, [0, 20, 40, 40], 0)]
    assert len(val.content['images']) == 1 and val.content['categories'][1]['name'] == 'dog'
    assert '1 of 3 annotations are crowds (iscrowd, ignore or difficult' in capsys.readouterr().out


def test_voc_lies_as_tools_write_it(devkit, tmp_path_factory):
    (devkit / 'ImageSets/Main/train.txt').unlink()
    (devkit / 'Annotations/._a.xml').write_bytes(b'of macOS')
    count = [3, 1]  # a fifth of three images is one
    flat = tmp_path_factory.mktemp('flat')
    for folder in ('JPEGImages', 'Annotations'):
        for path in (devkit / folder).iterdir():
            (flat / path.name).write_bytes(path.read_bytes())
    whole = [(devkit, None), (devkit / 'Annotations', None), (flat, None)]
    whole += [(devkit / 'Annotations', flat)]
    for source, images in whole:
        assert sum(len(p.content['annotations']) for p in read(source, images)) == sum(count)
    # Some xml files do not have their image's name.
    (devkit / 'JPEGImages/a.jpg').rename(devkit / 'JPEGImages/other.jpg')
    voc(devkit / 'Annotations/a.xml', {}, name='other.jpg')
    assert 'other.jpg' in {i['file_name'] for p in read(devkit) for i in p.content['images']}


@pytest.mark.parametrize('place', ['', 'Annotations'])
def test_folders_of_a_voc_set_are_its_parts(tmp_path, capsys, place):
    folder = tmp_path / 'voc' / place
    for part, counts in dict(train=range(1, 11), valid=(11, 12), test=(13, 14, 15)).items():
        for number in counts:
            images = tmp_path / 'voc/JPEGImages' / part if place else folder / part
            image(images / f'{number}.jpg')
            voc(folder / part / f'{number}.xml', {}, name=f'{number}.jpg')

    def names():
        return [sorted(i['file_name'] for i in p.content['images']) for p in read(tmp_path / 'voc')]

    train, val = names()
    assert len(train) == 10 and {name.split('/')[0] for name in train} == {'train'}
    assert val == ['valid/11.jpg', 'valid/12.jpg']
    assert f'3 xml files of {folder / "test"} are not learned from' in capsys.readouterr().out
    shutil.rmtree(folder / 'valid')
    assert [{name.split('/')[0] for name in part} for part in names()] == [{'train'}, {'train'}]
    (folder / 'train/1.xml').rename(folder / 'train.xml')  # in no part
    image((images.parent if place else folder) / 'train.jpg')
    assert sum(map(len, names())) == 10 + 3


def test_voc_is_written_in_many_ways(devkit):
    xmls, lists = devkit / 'Annotations', devkit / 'ImageSets/Main'
    (xmls / 'a.xml').write_text(
        (xmls / 'a.xml').read_text().replace('<annotation>', '<annotation xmlns="http://of.it">')
    )
    (xmls / 'b.xml').rename(xmls / 'my b.XML')
    (devkit / 'JPEGImages/b.jpg').rename(devkit / 'JPEGImages/my b.jpg')
    image(devkit / 'JPEGImages/c.png', size=(10, 10))
    voc(xmls / 'c.xml', {}, name='c.jpg')
    (lists / 'train.txt').unlink()
    (lists / 'trainval.txt').write_text('a.jpg\nmy b\nc -1\n')
    voc(xmls / 'of_test.xml', dict(name='unknown'), name='unlisted.jpg')
    train, val = read(devkit)
    images = {i['file_name'] for part in (train, val) for i in part.content['images']}
    assert images == {'a.jpg', 'my b.jpg', 'c.jpg'}
    assert sum(len(part.content['annotations']) for part in (train, val)) == 4
    assert [c['name'] for c in train.content['categories']] == ['cat', 'dog']
    (lists / 'trainval.txt').write_text('\n')
    with pytest.raises(ValueError, match=r'trainval\.txt lists no images'):
        read(devkit)


def test_mistakes_are_told_of_a_set_that_has_nothing_else(devkit):
    (devkit / 'Annotations/a.xml').write_text('<html/>')
    (devkit / 'Annotations/b.xml').write_text('<?xml version="1.0" encoding="none"?><a/>')
    (devkit / 'JPEGImages/b.jpg').unlink()
    with pytest.raises(ValueError, match=r'a: it is <html>(.*\n)*.*b: unknown encoding'):
        read(devkit)


def test_what_is_wrong_in_a_voc_set_is_named_by_file_and_object(devkit):
    voc(
        devkit / 'Annotations/a.xml',
        dict(name=''),
        dict(xmin=50),
        dict(xmin='x'),
        dict(difficult='perhaps'),
        {},
        size='<size><width>120</width><height>80</height></size>',
    )
    voc(devkit / 'Annotations/b.xml', {}, {}, dict(difficult='perhaps'), dict(xmin=-80))
    voc(devkit / 'Annotations/c.xml', dict(name='horse'))
    (devkit / 'Annotations/unlisted.xml').write_text('<annotation>')
    (devkit / 'JPEGImages/unlisted.jpg').unlink()
    (devkit / 'ImageSets/Main/train.txt').write_text('a\nb\nunlisted\nnone\n')
    with pytest.raises(ValueError, match='--skip-bad') as caught:
        read(devkit)
    said = str(caught.value).splitlines()
    for start in (
        '  Annotations/a.xml: unknown class, annotation object 1, a.jpg: the object has no name',
        '  Annotations/a.xml: degenerate box, annotation object 2, a.jpg: xmin ',
        "  Annotations/a.xml: degenerate box, annotation object 3, a.jpg: xmin 'x'",
        '  Annotations/a.xml: image size, a.jpg: (120, 80) is stated',
        "  Annotations/b.xml: difficult, annotation object 3, b.jpg: 'perhaps' is neither 0 nor 1",
        '  Annotations/b.xml: box outside the image, annotation object 4, b.jpg: ',
        "  Annotations/c.xml: unknown class, annotation object 1, c.jpg: 'horse'",
        '  Annotations/unlisted.xml: xml, unlisted: ',
        f'  train.txt: annotation missing, none: it is listed, and {devkit}',
    ):
        assert any(line.startswith(start) for line in said), (start, said)


def test_sets_of_several_kinds_validate_each_other(yolo, devkit, scenes, capsys):
    """As long as the classes are the same."""
    (yolo / 'data.yaml').write_text('train: images/train\nval: images/val\nnames: [dog, cat]\n')
    for sources, counts in (((yolo, devkit), (2, 1)), ((devkit, yolo), (3, 1))):
        train, val = read_sets(sources[0], None, sources[1], None, yolo / 'out', False, 0)
        assert tuple(len(part.content['annotations']) for part in (train, val)) == counts
        assert train.content['categories'] == val.content['categories']
        assert f'What {sources[0]} names to validate on is not learned' in capsys.readouterr().out
    with pytest.raises(ValueError, match='other categories'):
        read_sets(scenes / 'train.json', scenes / 'train', yolo, None, yolo / 'out', False, 0)


def test_what_is_no_set_is_named(tmp_path, scenes):
    (tmp_path / 'train.sh').write_text('#!/bin/sh\n')
    for source, message in (
        (tmp_path / 'train.sh', "neither a json file in COCO's format, nor"),
        (tmp_path, r'neither xml files \(Pascal VOC\) nor data\.yaml'),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read(source, tmp_path)
    with pytest.raises(ValueError, match=r'file names start from, too \(images\)'):
        read(scenes / 'train.json')
    count = len(json.loads((scenes / 'train.json').read_text())['images'])
    with pytest.raises(FileNotFoundError, match=f'{count} of {count} images .*first is looked for'):
        read(scenes / 'train.json', tmp_path)
