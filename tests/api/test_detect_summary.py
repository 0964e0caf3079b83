"""What is told and shown of a detector."""

import json

import numpy as np
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
