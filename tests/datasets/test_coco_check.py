"""Mistakes in a COCO-format set, and what is put right."""

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from mmsnclr.datasets import check_coco
from mmsnclr.datasets.coco import describe_crowds, objects_of
from mmsnclr.datasets.coco_check import describe_mistakes


def test_mistakes_are_found_all_at_once_and_named(content, scenes, tmp_path):
    annotations = content['annotations']
    square = [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]
    lengths = dict(size=[128, 128], counts=[10 * 128 + 10, 10, 128 * 117 + 108])
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
        dict(id=8, file_name='shared.png', **size),
        dict(id=8, file_name='good.png', **size),
        dict(id=9, file_name=None, **size),
        dict(id=[7], file_name='other.png', **size),
    ]
    wrong = [
        ('unknown image id', dict(image_id=99)),
        ('unknown category id', dict(category_id=99)),
        ('unknown category id', dict(category_id=[1])),
        ('degenerate box', dict(bbox=[10, 10, -1, 10])),
        ('degenerate box', dict(bbox=[10, 10, math.nan, 10])),
        ('degenerate box', dict(bbox=[[10, 10], [20, 20]])),
        ('degenerate box', dict(bbox=None, segmentation=[[]])),
        ('box outside the image', dict(bbox=[200, 10, 20, 20])),
        ('degenerate polygon', dict(segmentation=[[1.0, 1.0, 2.0, 2.0]])),
        ('degenerate polygon', dict(segmentation=[[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])),
        ('bad run lengths', dict(segmentation=dict(size=[64, 64], counts=[4096]))),
        ('bad run lengths', dict(segmentation=dict(size=[128, 128], counts=[5, 5]))),
        ('empty mask', dict(segmentation=dict(size=[128, 128], counts=[128 * 128]))),
        ('box contradicts its mask', dict(bbox=[60, 60, 10, 10])),
        ('iscrowd', dict(iscrowd='perhaps')),
        ('ignore', dict(ignore=2)),
    ]
    put_right = [
        ('box partly outside the image', dict(bbox=[100, 100, 40, 20], segmentation=None)),
        ('degenerate polygon', dict(segmentation=[square, [1.0, 2.0]])),
        ('box of less than a pixel', dict(bbox=[10, 10, 0.5, 10])),
        ('box of less than a pixel', dict(bbox=[10, 10, 10, 0.0], segmentation=[[1.0] * 8])),
        ('box contradicts its mask', dict(bbox=[0, 0, 30, 30])),
        ('iscrowd', dict(iscrowd=math.nan)),
        ('image left out', dict(image_id=2)),
        ('image left out', dict(image_id=8)),
    ]
    fine = [dict(), dict(bbox=[10, 10, 1, 10], segmentation=lengths), dict(bbox=None)]
    fine += [dict(bbox=[120, 120, 8.4, 8.0], segmentation=[])]
    changes = [change for _, change in wrong + put_right] + fine
    base = dict(annotations[0], image_id=1, bbox=[10, 10, 10, 10], segmentation=[square])
    kinds = [category['id'] for category in content['categories']]  # so that none is repeated
    content['annotations'] = [
        base | dict(category_id=kinds[i % len(kinds)]) | change | dict(id=i)
        for i, change in enumerate(changes)
    ]
    (tmp_path / 'all.json').write_text(json.dumps(content))
    good, mistakes = check_coco(tmp_path / 'all.json', tmp_path)

    of_images = {(m.kind, m.image) for m in mistakes if m.annotation is None}
    assert of_images == {
        ('image missing', 'missing.png'),
        ('image unreadable', 'broken.png'),
        ('image size', 'narrow.png'),
        ('image outside the folder', '../../etc/passwd'),
        ('image outside the folder', '/etc/passwd'),
        ('duplicate image id', 'shared.png'),
        ('duplicate image id', 'good.png'),
        ('incomplete image', '9'),
        ('incomplete image', 'other.png'),
    }
    found = [(m.kind, m.annotation, m.fatal) for m in mistakes if m.annotation is not None]
    assert found == [(kind, i, i < len(wrong)) for i, (kind, _) in enumerate(wrong + put_right)]
    assert [image['id'] for image in good['images']] == [1]
    assert (good['images'][0]['width'], good['images'][0]['height']) == (128, 128)
    boxes = [annotation['bbox'] for annotation in good['annotations']]
    assert [(a['id'], a['iscrowd']) for a in good['annotations']] == [(i, 0) for i in range(1, 9)]
    own, edge = [10, 10, 10, 10], [120, 120, 8, 8.0]
    assert boxes == [[100, 100, 28, 20], own, [0, 0, 30, 30], own, own, [10, 10, 1, 10], own, edge]
    assert good['annotations'][1]['segmentation'] == [square]
    text = describe_mistakes(mistakes, tmp_path / 'mistakes.csv')
    count = len((tmp_path / 'mistakes.csv').read_text().splitlines()) - 1
    assert count == len(mistakes) and f'all {count} are in' in text


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
    for position, category in enumerate(content['categories'][:9]):
        category['name'] = position
    content['categories'][9]['name'] = '\ud8009'
    (tmp_path / 'file.json').write_text(json.dumps(content))
    good, _ = check_coco(tmp_path / 'file.json', scenes / 'train')
    assert [category['name'] for category in good['categories']] == [*'012345678', '?9']


def test_an_image_without_black_and_white_is_a_mistake(content, scenes, tmp_path):
    Image.fromarray(np.zeros((128, 128), 'float32')).save(tmp_path / 'a.tif')
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


def check(content, scenes, tmp_path, **changes):
    """Check the training part's file with other annotations."""
    for annotation in content['annotations']:
        annotation.update(changes)
    (tmp_path / 'file.json').write_text(json.dumps(content))
    return check_coco(tmp_path / 'file.json', scenes / 'train')


@pytest.mark.parametrize('key', ['iscrowd', 'ignore'])
@pytest.mark.parametrize('value', [1, True, '1', 1.0, ' True '])
def test_crowds_and_what_is_to_be_ignored_are_no_objects(content, scenes, tmp_path, key, value):
    good, mistakes = check(content, scenes, tmp_path, **{key: value})
    assert mistakes == [] and objects_of(good) == ([], [])
    assert f'{len(good["annotations"])} of' in describe_crowds(good, 'file.json')


@pytest.mark.parametrize('value', [0, False, '0', 0.0, 'false', None, ''])
def test_objects_are_none_of_these(content, scenes, tmp_path, value):
    good, mistakes = check(content, scenes, tmp_path, iscrowd=value, ignore=value)
    assert mistakes == [] and len(objects_of(good)[1]) == len(content['annotations'])
    assert describe_crowds(good, 'file.json') == ''


def test_an_id_that_two_files_share_leaves_both_out_and_their_boxes(content, scenes, tmp_path):
    shared, other = content['images'][:2]
    count = sum(a['image_id'] in (shared['id'], other['id']) for a in content['annotations'])
    for annotation in content['annotations']:
        if annotation['image_id'] == other['id']:
            annotation['image_id'] = shared['id']
    other['id'] = shared['id']
    good, mistakes = check(content, scenes, tmp_path)
    assert len(good['images']) == len(content['images']) - 2
    assert len(good['annotations']) == len(content['annotations']) - count
    assert [m.kind for m in mistakes].count('image left out') == count
    names = f'{shared["file_name"]} or {other["file_name"]}'
    assert all(m.image == names for m in mistakes if m.kind == 'image left out')


def test_an_annotation_that_is_repeated_is_left_out(content, scenes, tmp_path):
    count, first = len(content['annotations']), content['annotations'][0]
    other = next(c['id'] for c in content['categories'] if c['id'] != first['category_id'])
    content['annotations'] += [first | dict(id=50, area=3), first | dict(category_id=other)]
    good, mistakes = check(content, scenes, tmp_path)
    assert len(good['annotations']) == count + 1
    assert [(m.kind, m.annotation, m.fatal) for m in mistakes] == [
        ('repeated annotation', 50, False)
    ]
    assert mistakes[0].detail == f'it says the same as {first["id"]}: left out'


def test_a_file_under_two_ids_is_merged_unless_its_boxes_contradict(content, scenes, tmp_path):
    count, first = len(content['annotations']), content['annotations'][0]
    box = first['bbox']
    free = [0, 0, 4, 4] if min(box[:2]) > 8 else [122, 122, 4, 4]
    name = {image['id']: image['file_name'] for image in content['images']}[first['image_id']]
    content['images'].append(dict(id=99, file_name=name))
    moved = [box[0] + box[2] / 4, *box[1:]]  # an IoU of 0.6
    for boxes, added in (([box], 0), ([box, free], 1), ([moved, free], None)):
        again = [first | dict(image_id=99, bbox=b, segmentation=[]) for b in boxes]
        content['annotations'] = content['annotations'][:count] + again
        good, mistakes = check(content, scenes, tmp_path)
        assert len(good['images']) == len(content['images']) - 1
        assert len(good['annotations']) == count + (added or 0)
        kinds = [('image listed twice', added is None)]
        kinds += [('image left out', False)] * (len(boxes) if added is None else 0)
        assert [(m.kind, m.fatal) for m in mistakes] == kinds


LAYOUTS = {
    'x1 y1 x2 y2': lambda x, y, w, h: [x, y, x + w, y + h],
    'centre, width, height': lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    'centre, width, height, relative': lambda x, y, w, h: [
        v / 128 for v in (x + w / 2, y + h / 2, w, h)
    ],
    'x y width height, relative': lambda *box: [v / 128 for v in box],
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_boxes_of_another_layout_are_seen_by_their_masks(content, scenes, tmp_path, layout):
    for annotation in content['annotations']:
        annotation['bbox'] = LAYOUTS[layout](*annotation['bbox'])
    with pytest.raises(ValueError, match=f'boxes look like {layout}.* fit their masks'):
        check(content, scenes, tmp_path)
    if layout != 'x1 y1 x2 y2':
        return
    # One of many is a mistake of its own.
    content['annotations'][1:] = json.loads((scenes / 'train.json').read_text())['annotations'][1:]
    _, mistakes = check(content, scenes, tmp_path)
    assert mistakes[-1].kind == 'box contradicts its mask' and mistakes[-1].fatal
    assert 'looks like x1 y1 x2 y2' in mistakes[-1].detail


def test_relative_boxes_are_seen_though_the_masks_are_relative_too(content, scenes, tmp_path):
    for annotation in content['annotations']:
        annotation['bbox'] = [value / 128 for value in annotation['bbox']]
    with pytest.raises(ValueError, match='boxes look like relative'):
        check(content, scenes, tmp_path, segmentation=[[0.1, 0.1, 0.2, 0.1, 0.2, 0.2]])


@pytest.mark.parametrize('layout', ['x1 y1 x2 y2', 'centre, width, height', 'relative'])
def test_boxes_of_another_layout_are_seen_without_masks(content, scenes, tmp_path, layout):
    read = LAYOUTS.get(layout, LAYOUTS['x y width height, relative'])
    content['annotations'] = [
        annotation | dict(image_id=image['id'], bbox=read(*box), segmentation=[])
        for image, annotation in zip(content['images'], content['annotations'])
        for box in ([70, 80, 40, 40], [10, 10, 20, 20])
    ]
    with pytest.raises(ValueError, match=f'boxes look like {layout}'):
        check(content, scenes, tmp_path)


def test_boxes_of_two_corners_are_seen_by_their_areas(content, scenes, tmp_path):
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        corners = [x / 4, y / 4, (x + width) / 4, (y + height) / 4]  # inside either way
        annotation.update(bbox=corners, area=width * height / 16)
    with pytest.raises(ValueError, match=r'boxes look like x1 y1 x2 y2.* fit their masks or areas'):
        check(content, scenes, tmp_path, segmentation=[])


@pytest.mark.parametrize(
    ('mask', 'detail'),
    [
        ([10.0, 10, 20, 10, 20, 20], 'one flat list of numbers'),
        ([[10.0, 10], [20, 10], [20, 20]], r'\[x, y\] pairs'),
        ([[[10.0, 10], [20, 10], [20, 20]]], r'\[x, y\] pairs'),
        ([[10.0, 10, 20, 20]], 'two corners'),
        ([[0.1, 0.1, 0.2, 0.1, 0.2, 0.2]], 'look relative'),
        ([dict(x=1, y=2)], "it is .*'x': 1"),
    ],
)
def test_polygons_of_another_form_are_called_by_it(content, scenes, tmp_path, mask, detail):
    _, mistakes = check(content, scenes, tmp_path, segmentation=mask)
    assert len(mistakes) == len(content['annotations'])
    assert all(re.search(detail, mistake.detail) for mistake in mistakes)


@pytest.mark.parametrize('size', [0, -1, None, '128', math.nan])
def test_sizes_that_are_none_are_filled_in(content, scenes, tmp_path, size):
    for image in content['images']:
        image.update(width=size, height=size)
    good, mistakes = check(content, scenes, tmp_path)
    assert mistakes == [] and {(i['width'], i['height']) for i in good['images']} == {(128, 128)}


@pytest.mark.parametrize('empty', [None, [], [[]], {}, math.nan])
def test_masks_that_are_none_leave_the_boxes(content, scenes, tmp_path, empty):
    good, mistakes = check(content, scenes, tmp_path, segmentation=empty)
    assert mistakes == [] and len(good['annotations']) == len(content['annotations'])
    assert not any('segmentation' in annotation for annotation in good['annotations'])


@pytest.mark.parametrize('empty', [None, [], [0, 0, 0, 0], [math.nan] * 4])
def test_boxes_that_are_none_are_those_of_the_masks(content, scenes, tmp_path, empty):
    expected = [annotation['bbox'] for annotation in content['annotations']]
    good, mistakes = check(content, scenes, tmp_path, bbox=empty, area=None)
    boxes = [annotation['bbox'] for annotation in good['annotations']]
    assert mistakes == [] and np.allclose(boxes, expected, atol=1.5)


def test_ids_may_be_floats_and_annotations_share_theirs(content, scenes, tmp_path):
    for annotation in content['annotations']:
        annotation['image_id'] = float(annotation['image_id'])
    good, mistakes = check(content, scenes, tmp_path, id=1)
    assert mistakes == [] and len(good['annotations']) == len(content['annotations'])
    assert all(type(annotation['image_id']) is int for annotation in good['annotations'])


def test_an_id_of_another_type_is_called_so(content, scenes, tmp_path):
    number = content['annotations'][0]['image_id']
    content['annotations'][0]['image_id'] = str(number)
    content['annotations'][1]['category_id'] = '3'
    _, mistakes = check(content, scenes, tmp_path)
    assert [m.kind for m in mistakes] == ['unknown image id', 'unknown category id']
    assert all('is a text, the ids are numbers' in m.detail for m in mistakes)


def test_ids_of_mixed_types_become_texts(content, scenes, tmp_path):
    first = content['images'][0]['id']
    for entry in (*content['images'], *content['annotations']):
        key = 'image_id' if 'image_id' in entry else 'id'
        entry[key] = 'first' if entry[key] == first else entry[key]
    good, mistakes = check(content, scenes, tmp_path)
    assert mistakes == [] and all(type(image['id']) is str for image in good['images'])
    assert {a['image_id'] for a in good['annotations']} <= {i['id'] for i in good['images']}


@pytest.mark.parametrize(
    'name',
    [
        'sub\\\u00e9 a.png',
        'C:\\photos\\sub\\\u00e9 a.png',
        '/home/other/photos/sub/\u00e9 a.png',
        'sub/e\u0301 A.PNG',
        'photos/sub/\u00e9 a.png',
        './sub/\u00e9 a.png',
    ],
)
def test_names_as_other_machines_write_them_are_found_and_said(content, tmp_path, name):
    folder = tmp_path / 'photos'
    (folder / 'sub').mkdir(parents=True)
    Image.new('RGB', (128, 128)).save(folder / 'sub/\u00e9 a.png')
    content['images'] = [dict(id=1, file_name=name)]
    content['annotations'] = []
    (tmp_path / 'file.json').write_text(json.dumps(content))
    good, mistakes = check_coco(tmp_path / 'file.json', folder)
    assert (folder / good['images'][0]['file_name']).is_file()
    assert [(m.kind, m.fatal) for m in mistakes] == [('file name', False)] * (name[0] != '.')


def test_a_name_that_means_two_files_is_not_guessed(content, tmp_path):
    for name in ('a.png', 'A.png'):
        Image.new('RGB', (128, 128)).save(tmp_path / name)
    names = ('c:\\x\\A.PNG', '/one/a.png', '/two/a.png')
    content['images'] = [dict(id=i, file_name=name) for i, name in enumerate(names)]
    content['annotations'] = []
    (tmp_path / 'file.json').write_text(json.dumps(content))
    good, mistakes = check_coco(tmp_path / 'file.json', tmp_path)
    assert good['images'] == [] and all(mistake.fatal for mistake in mistakes)
    assert 'backslashes' in mistakes[0].detail and 'absolute' in mistakes[1].detail


def test_an_image_is_read_to_its_end(content, scenes, tmp_path):
    source = scenes / 'train' / content['images'][0]['file_name']
    Image.open(source).save(tmp_path / 'whole.jpg')
    data = (tmp_path / 'whole.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(data[: len(data) // 2])
    content['images'] = [dict(id=i, file_name=n) for i, n in ((1, 'whole.jpg'), (2, 'cut.jpg'))]
    (tmp_path / 'file.json').write_text(json.dumps(content | dict(annotations=[])))
    good, mistakes = check_coco(tmp_path / 'file.json', tmp_path)
    assert [image['file_name'] for image in good['images']] == ['whole.jpg']
    assert [(m.kind, m.image) for m in mistakes] == [('image unreadable', 'cut.jpg')]
