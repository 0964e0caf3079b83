"""A COCO-format set that is read, matched and split."""

import json

import pytest

from mmsnclr.datasets import check_coco
from mmsnclr.datasets.coco import (
    mask_crowds,
    match_categories,
    read_coco,
    split_coco,
)


def test_files_that_are_not_cocos_are_refused(content, scenes, tmp_path):
    path, first = tmp_path / 'file.json', content['categories'][0]
    used = sorted({annotation['category_id'] for annotation in content['annotations']})
    content['annotations'][0]['category_id'], content['annotations'][1]['category_id'] = used[:2]
    for text, message in (
        ('{', 'is no json file'),
        ('[' * 100_000 + ']' * 100_000, 'is no json file'),
        ('[]', "has no list 'images'"),
        (json.dumps(content | dict(annotations=None)), "has no list 'annotations'"),
        (json.dumps(content | dict(categories=[])), 'there is none'),
        (json.dumps(content | dict(categories=[dict(id=1)])), 'needs an id and a name'),
        (json.dumps(content | dict(categories=[first, first | dict(name='b')])), 'share 1'),
        (json.dumps(content | dict(categories=[first | dict(id=i) for i in used])), 'ids .1, 2'),
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


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
def test_a_file_of_any_unicode_is_read(content, tmp_path, encoding):
    content['categories'][0]['name'] = 'ü'
    (tmp_path / 'file.json').write_text(json.dumps(content, ensure_ascii=False), encoding)
    assert read_coco(tmp_path / 'file.json')['categories'][0]['name'] == 'ü'


def test_of_categories_that_are_alike_the_one_in_use_is_kept(content, tmp_path):
    categories = content['categories']
    roots = [
        dict(id=50 + i, name=c['name'], supercategory='none') for i, c in enumerate(categories)
    ]
    content['categories'] = roots + 2 * categories
    (tmp_path / 'file.json').write_text(json.dumps(content))
    used = {annotation['category_id'] for annotation in content['annotations']}
    kept = {
        category['id']: category['name']
        for category in read_coco(tmp_path / 'file.json')['categories']
    }
    assert sorted(kept.values()) == list('0123456789')
    assert used <= kept.keys()


def test_categories_of_a_validation_set_are_matched_by_name():
    def of(names, used):
        categories = [dict(id=number, name=name) for number, name in names.items()]
        annotations = [dict(category_id=number) for number in used]
        return dict(images=[], annotations=annotations, categories=categories)

    train = of({1: 'cat', 2: 'dog'}, [1])
    for names, used, expected in (
        ({1: 'cat', 2: 'dog'}, [1, 2], [1, 2]),
        ({2: 'dog'}, [2], [2]),
        ({1: 'dog', 2: 'cat'}, [1, 2], [2, 1]),
        ({1: 'dog', 7: 'bird'}, [1], [2]),  # nothing is a bird
    ):
        val = match_categories(train, of(names, used), 'train.json', 'val.json')
        assert val['categories'] == train['categories']
        assert [annotation['category_id'] for annotation in val['annotations']] == expected
    with pytest.raises(ValueError, match=r"val.json has other categories .* \['bird'\]"):
        match_categories(train, of({1: 'bird'}, [1]), 'train.json', 'val.json')


def test_crowds_without_a_mask_have_their_box_as_one():
    crowd, single = (dict(id=i, bbox=[1, 2, 10, 20], iscrowd=i) for i in (1, 0))
    masked = mask_crowds(dict(annotations=[crowd, single]))['annotations']
    assert masked == [crowd | dict(segmentation=[[1, 2, 11, 2, 11, 22, 1, 22]]), single]


def test_crowds_alone_are_not_drawn_to_validate_on(content):
    first = content['annotations'][0]['image_id']
    for annotation in content['annotations']:
        annotation['iscrowd'] = int(annotation['image_id'] == first)
    for seed in range(8):
        _, val = split_coco(content, 0.5, seed)
        assert first not in {image['id'] for image in val['images']}
