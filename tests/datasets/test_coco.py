"""Mistakes in a COCO-format set, and its split."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from mmsnclr.datasets.coco import check_coco, split_coco


def test_mistakes_are_found_all_at_once_and_named(content, scenes, tmp_path):
    annotations = content['annotations']
    square = [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]
    lengths = dict(size=[128, 128], counts=[100, 28, 128 * 127])
    Image.new('RGB', (64, 128)).save(tmp_path / 'narrow.png')
    (tmp_path / 'broken.png').write_bytes(b'nothing')
    Image.new('RGB', (128, 128)).save(tmp_path / 'good.png')
    size = dict(width=128, height=128)
    content['images'] = [
        dict(id=1, file_name='good.png'),
        dict(id=2, file_name='missing.png', **size),
        dict(id=3, file_name='broken.png', **size),
        dict(id=4, file_name='narrow.png', **size),
        dict(id=5, file_name='../../etc/passwd', **size),
        dict(id=6, file_name='/etc/passwd', **size),
        dict(id=1, file_name='narrow.png', width=64, height=128),
        dict(id=[7], file_name='other.png', **size),
    ]
    wrong = [
        ('unknown image id', dict(image_id=99)),
        ('unknown category id', dict(category_id=99)),
        ('unknown category id', dict(category_id=[1])),
        ('degenerate box', dict(bbox=[10, 10, 0, 10])),
        ('degenerate box', dict(bbox=[10, 10, math.nan, 10])),
        ('degenerate box', dict(bbox=None)),
        ('box outside the image', dict(bbox=[200, 10, 20, 20])),
        ('degenerate polygon', dict(segmentation=[[1.0, 1.0, 2.0, 2.0]])),
        ('degenerate polygon', dict(segmentation=[[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])),
        ('bad run lengths', dict(segmentation=dict(size=[64, 64], counts=[4096]))),
        ('bad run lengths', dict(segmentation=dict(size=[128, 128], counts=[5, 5]))),
        ('empty mask', dict(segmentation=dict(size=[128, 128], counts=[128 * 128]))),
    ]
    put_right = [
        ('box partly outside the image', dict(bbox=[100, 100, 40, 20])),
        ('degenerate polygon', dict(segmentation=[square, [1.0, 2.0]])),
        ('box of less than a pixel', dict(bbox=[10, 10, 0.5, 10])),
    ]
    fine = [dict(), dict(segmentation=lengths), dict(bbox=[120, 120, 8.4, 8.0]), dict(image_id=2)]
    changes = [change for _, change in wrong + put_right] + fine
    base = dict(annotations[0], image_id=1, bbox=[10, 10, 10, 10], segmentation=[square])
    content['annotations'] = [base | change | dict(id=i) for i, change in enumerate(changes)]
    content['annotations'].append(base | dict(id=0))
    (tmp_path / 'all.json').write_text(json.dumps(content))
    good, mistakes = check_coco(tmp_path / 'all.json', tmp_path)

    of_images = [(m.kind, m.image) for m in mistakes if m.annotation is None]
    assert of_images == [
        ('image missing', 'missing.png'),
        ('image unreadable', 'broken.png'),
        ('image size', 'narrow.png'),
        ('image outside the folder', '../../etc/passwd'),
        ('image outside the folder', '/etc/passwd'),
        ('duplicate image id', 'narrow.png'),
        ('incomplete image', 'other.png'),
    ]
    found = [(m.kind, m.annotation, m.fatal) for m in mistakes if m.annotation is not None]
    expected = [(kind, i, i < len(wrong)) for i, (kind, _) in enumerate(wrong + put_right)]
    assert found == [*expected, ('duplicate annotation id', 0, True)]
    assert [image['id'] for image in good['images']] == [1]
    assert (good['images'][0]['width'], good['images'][0]['height']) == (128, 128)
    assert [annotation['id'] for annotation in good['annotations']] == [1, 2, 3, 4, 5]
    assert good['annotations'][0]['bbox'] == [100, 100, 28, 20]
    assert good['annotations'][1]['segmentation'] == [square]
    assert good['annotations'][3]['area'] == annotations[0]['area']


@pytest.mark.parametrize(
    ('change', 'kinds'),
    [
        (dict(bbox=[10, 10, 10**400, 10]), ['degenerate box']),
        (dict(bbox=[0.5, 10, 10**300, 10**300]), ['degenerate box']),
        (dict(segmentation=[[10**400] * 6]), ['degenerate polygon']),
        (dict(segmentation=dict(size=[128, 128], counts=[10**400])), ['bad run lengths']),
        (dict(area=10**400), []),  # computed instead
    ],
)
def test_numbers_too_large_to_calculate_with_are_mistakes(content, scenes, tmp_path, change, kinds):
    content['annotations'][0].update(change)
    (tmp_path / 'file.json').write_text(json.dumps(content))
    good, mistakes = check_coco(tmp_path / 'file.json', scenes / 'train')
    assert [mistake.kind for mistake in mistakes] == kinds
    assert all(annotation['area'] < 128 * 128 for annotation in good['annotations'])


@pytest.mark.parametrize('number', [lambda i: i, lambda i: f'a{i}', lambda i: None])
def test_ids_of_any_kind_become_numbers_that_pycocotools_counts(content, scenes, tmp_path, number):
    for position, annotation in enumerate(content['annotations']):
        annotation['id'] = number(position)
    (tmp_path / 'file.json').write_text(json.dumps(content))
    good, mistakes = check_coco(tmp_path / 'file.json', scenes / 'train')
    assert mistakes == []
    count = len(content['annotations'])
    assert [a['id'] for a in good['annotations']] == list(range(1, count + 1))


def test_names_that_are_numbers_become_texts(content, scenes, tmp_path):
    for position, category in enumerate(content['categories']):
        category['name'] = position
    (tmp_path / 'file.json').write_text(json.dumps(content))
    good, _ = check_coco(tmp_path / 'file.json', scenes / 'train')
    assert [category['name'] for category in good['categories']] == list('0123456789')


@pytest.mark.parametrize('dtype', ['float32', 'int32'])
def test_an_image_that_opencv_does_not_read_is_a_mistake(content, scenes, tmp_path, dtype):
    Image.fromarray(np.zeros((128, 128), dtype)).save(tmp_path / 'a.tif')
    content['images'] = [content['images'][0] | dict(file_name='a.tif')]
    (tmp_path / 'file.json').write_text(json.dumps(content))
    _, mistakes = check_coco(tmp_path / 'file.json', tmp_path)
    assert ('image unreadable', 'a.tif') in {(m.kind, m.image) for m in mistakes}


def test_the_untouched_set_has_no_mistake(scenes):
    content, mistakes = check_coco(scenes / 'train.json', scenes / 'train')
    assert mistakes == []
    assert len(content['annotations']) == len(
        json.loads((scenes / 'train.json').read_text())['annotations']
    )


def test_files_that_are_not_cocos_are_refused(content, scenes, tmp_path):
    path = tmp_path / 'file.json'
    for text, message in (
        ('{', 'is no json file'),
        ('[' * 100_000 + ']' * 100_000, 'is no json file'),
        ('[]', "has no list 'images'"),
        (json.dumps(content | dict(annotations=None)), "has no list 'annotations'"),
        (json.dumps(content | dict(categories=[])), 'there is none'),
        (json.dumps(content | dict(categories=2 * content['categories'])), r'unlike \[1, 2'),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            check_coco(path, scenes / 'train')
    with pytest.raises(FileNotFoundError, match='no annotation file'):
        check_coco(tmp_path / 'none.json', scenes / 'train')


def test_the_split_is_by_image_and_seeded(content):
    train, val = split_coco(content, 0.25, seed=3)
    ids = [{image['id'] for image in part['images']} for part in (train, val)]
    assert len(ids[1]) == 2 and ids[0] | ids[1] == {i['id'] for i in content['images']}
    assert not ids[0] & ids[1]
    for part, own in zip((train, val), ids):
        assert {a['image_id'] for a in part['annotations']} <= own
    assert split_coco(content, 0.25, seed=3) == (train, val)
    assert split_coco(content, 0.25, seed=4) != (train, val)
