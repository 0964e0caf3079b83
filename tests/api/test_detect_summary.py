"""What is told and shown of a detector."""

import json

import numpy as np
import pytest
from PIL import Image

from mmsnclr.api.detect import detect

QUICK = dict(size=64, iterations=2, batch=2, workers=0)


def test_images_without_objects_and_crowds_are_not_counted_as_learned_from(
    content, scenes, tmp_path, untrained
):
    first, second = (image['id'] for image in content['images'][:2])
    kept = [one for one in content['annotations'] if one['image_id'] != first]
    content['annotations'] = [one | dict(iscrowd=int(one['image_id'] == second)) for one in kept]
    (tmp_path / 'set.json').write_text(json.dumps(content))
    given = QUICK | dict(backbone='random', out=tmp_path / 'out', val_json=scenes / 'train.json')
    summary = detect(tmp_path / 'set.json', scenes / 'train', **given).summary.read_text()
    objects = sum(one['image_id'] != second for one in kept)
    told = f'Trained on 6 images, {objects} annotations; 2 without objects are not learned from.'
    assert f'{told}\nMeasured on 8 images, ' in summary


@pytest.mark.parametrize(('score', 'shown'), [(0.9, 0.3), (0.12, 0.12)])
def test_pictures_show_as_many_detections_as_objects_or_those_that_are_sure(
    content, scenes, tmp_path, untrained, score, shown
):
    alone = {one['image_id']: one for one in content['annotations']}.values()
    content['annotations'] = list(alone)
    (tmp_path / 'set.json').write_text(json.dumps(content))
    untrained += [one | dict(score=score) for one in alone]
    untrained += [one | dict(score=0.05) for one in alone for _ in range(9)]
    given = QUICK | dict(out=tmp_path / 'out', val_json=tmp_path / 'set.json')
    summary = detect(tmp_path / 'set.json', scenes / 'train', 'random', **given).summary
    assert f'found with a score of {shown:.2f} or more' in summary.read_text()


def test_pictures_of_12_bits_are_as_the_detector_sees_them(content, scenes, tmp_path, untrained):
    for part, shift in dict(train=4, val=2).items():
        (tmp_path / part).mkdir()
        for image in content['images']:
            values = np.asarray(Image.open(scenes / 'train' / image['file_name']).convert('L'))
            deep = Image.fromarray(values.astype(np.uint16) << shift)
            deep.save(tmp_path / part / image['file_name'])
    given = QUICK | dict(out=tmp_path / 'out', val_json=scenes / 'train.json')
    given |= dict(val_images=tmp_path / 'val')
    detect(scenes / 'train.json', tmp_path / 'train', 'random', **given)
    found = np.asarray(Image.open(next((tmp_path / 'out/pictures').iterdir())))[:, 128:]
    assert 0 < found.max() < 100  # these have a quarter of the values that are white
