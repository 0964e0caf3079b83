"""What `detect` refuses, and what it puts up with."""

import json
import re

import pytest
from helpers import pretrained_backbone, pretrained_resnet
from mmengine.config import Config
from PIL import Image

from mmsnclr.api.detect import detect
from mmsnclr.datasets.coco import CocoSet, objects_of
from mmsnclr.recipes.detection import (
    fit_to_objects,
    leave_out_narrow,
    load_detector,
)

QUICK = dict(size=64, iterations=2, batch=2, workers=0)


def test_what_names_and_ids_other_tools_write_does_not_stop_it(content, scenes, tmp_path):
    names = ['{{ fileDirname }}', '{{$HOME:x}}', '{{_base_.a}}', 'a|b\nc', '$x_$', '"""', 'ü']
    val = json.loads((scenes / 'val.json').read_text())
    crowd = val['annotations'][0] | dict(iscrowd='1', segmentation=[], bbox=[0, 0, 9, 9])
    val['annotations'].append(crowd)
    for file, part in (('train.json', content), ('val.json', val)):
        for category, name in zip(part['categories'], names):
            category['name'] = name
        first = part['images'][0]['id']
        part['images'][0]['id'] = 'first'
        for annotation in part['annotations']:
            if annotation['image_id'] == first:
                annotation['image_id'] = 'first'
        (tmp_path / file).write_text(json.dumps(part))
    detection = detect(
        tmp_path / 'train.json',
        scenes / 'train',
        'random',
        tmp_path / 'out',
        val_json=tmp_path / 'val.json',
        val_images=scenes / 'val',
        compare=pretrained_resnet(tmp_path / 'snclr.pth'),
        **QUICK,
    )
    assert list(detection.results) == ['random', 'compared']
    config = Config.fromfile(tmp_path / 'out/config.py')
    assert config.model.backbone.init_cfg is None and config.model.backbone.depth == 18
    assert list(config.train_dataloader.dataset.metainfo.classes[: len(names)]) == names
    lines = detection.summary.read_text(encoding='utf-8').splitlines()
    classes = lines[lines.index('## Classes') : lines.index('## Pictures')]
    rows = [line for line in classes if line.startswith('|')]
    assert {len(re.findall(r'(?<!\\)\|', row)) for row in rows} == {7}


def test_a_set_without_objects_is_refused_with_the_cause(content, scenes, tmp_path):
    backbone = pretrained_resnet(tmp_path / 'snclr.pth')
    empty, crowds = tmp_path / 'empty.json', tmp_path / 'crowds.json'
    empty.write_text(json.dumps(content | dict(annotations=[])))
    marked = [annotation | dict(iscrowd=1) for annotation in content['annotations']]
    crowds.write_text(json.dumps(content | dict(annotations=marked)))
    for file, cause in ((empty, 'it has no annotations'), (crowds, r'all of its \d+ .* crowds')):
        for sets in (dict(train_json=file), dict(train_json=scenes / 'train.json', val_json=file)):
            with pytest.raises(ValueError, match=f'{file.name}: {cause}'):
                detect(**sets, images=scenes / 'train', backbone=backbone, out=tmp_path / 'out')


def test_an_image_that_is_narrower_than_a_pixel_is_refused(content, scenes, tmp_path):
    for image in content['images']:
        Image.open(scenes / 'train' / image['file_name']).save(tmp_path / image['file_name'])
    Image.new('RGB', (3000, 8)).save(tmp_path / 'narrow.png')
    content['images'].append(dict(id=99, file_name='narrow.png'))
    (tmp_path / 'file.json').write_text(json.dumps(content))
    backbone = pretrained_resnet(tmp_path / 'snclr.pth')
    with pytest.raises(ValueError, match=r'1 of 7 .* size=128, .* narrow\.png of 3000 x 8 pixels'):
        detect(tmp_path / 'file.json', tmp_path, backbone, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_narrow_images_are_left_out_if_asked_to(content, capsys):
    content['images'].append(dict(id=99, file_name='narrow.png', width=3000, height=8))
    narrow = dict(content['annotations'][0], image_id=99, iscrowd=0)
    whole, only = (
        CocoSet(content | dict(annotations=annotations), None, None)
        for annotations in ([*content['annotations'], narrow], [narrow])
    )
    cfg = load_detector(masks=True)
    fit_to_objects(cfg, *objects_of(whole.content), size=128)
    kept, _ = leave_out_narrow(cfg, whole, whole, skip_bad=True)
    assert 'the first narrow.png of 3000 x 8 pixels: left out' in capsys.readouterr().out
    assert [len(kept.content[key]) for key in ('images', 'annotations')] == [
        len(content['images']) - 1,
        len(content['annotations']),
    ]
    with pytest.raises(ValueError, match='no other has an object'):
        leave_out_narrow(cfg, whole, only, skip_bad=True)


def test_settings_are_refused_before_anything_is_read(tmp_path):
    for options, message in (
        (dict(iterations=-3), 'iterations=-3 must be at least 2'),
        (dict(epochs=0), 'epochs=0 must be greater than 0'),
        (dict(lr=float('nan')), 'lr=nan must be greater than 0'),
        (dict(size=16), 'size=16 must be at least 32'),
        (dict(workers=-1), 'workers=-1 must be at least 0'),
        (dict(seed=-1), 'seed=-1 must be at least 0'),
        (dict(amp='bf16'), '--amp bf16'),
        (dict(compare='randm'), "compare='randm' is no file, and not 'random'"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            detect(tmp_path / 'no.json', tmp_path, 'random', tmp_path / 'out', **options)


def test_the_folder_of_a_pretraining_is_not_written_into(scenes, tmp_path):
    (tmp_path / 'config.py').write_text("default_scope = 'mmpretrain'")
    (tmp_path / 'epoch_1.pth').touch()
    given = QUICK | dict(backbone=pretrained_resnet(tmp_path / 'snclr.pth'))
    for resume in (False, True):
        with pytest.raises(ValueError, match='holds no detector: choose another folder'):
            detect(scenes / 'train.json', scenes / 'train', out=tmp_path, resume=resume, **given)
    assert {path.name for path in tmp_path.iterdir()} == {'config.py', 'epoch_1.pth', 'snclr.pth'}


def test_mistakes_stop_the_training_unless_they_are_left_out(content, scenes, tmp_path):
    for number in range(len(content['annotations'])):
        content['annotations'][number]['bbox'] = [500, 500, 10, 10]
    path, checkpoint = tmp_path / 'bad.json', pretrained_resnet(tmp_path / 'snclr.pth')
    path.write_text(json.dumps(content))
    arguments = (path, scenes / 'train', checkpoint, tmp_path / 'out')
    with pytest.raises(ValueError, match='box outside the image, annotation 1,') as caught:
        detect(*arguments, **QUICK)
    count = len(content['annotations'])
    assert f'annotations: {count},' in str(caught.value) and '--skip-bad' in str(caught.value)
    lines = (tmp_path / 'out/mistakes.csv').read_text().splitlines()
    assert len(lines) == 1 + count and lines[1].startswith('bad.json,box outside the image,1,')
    with pytest.raises(ValueError, match=r'bad\.json: none of its annotations can be used'):
        detect(*arguments, skip_bad=True, **QUICK)


def test_backbones_and_settings_at_fault_are_named(scenes, tmp_path):
    gmlp = dict(type='TIMMRepresentation', model_name='gmlp_ti16_224')
    pretrained_backbone(tmp_path / 'gmlp.pth', gmlp)
    good = pretrained_resnet(tmp_path / 'snclr.pth')
    source = (scenes / 'train.json', scenes / 'train')
    for checkpoint, options, message in (
        (tmp_path / 'gmlp.pth', {}, r'gmlp_ti16_224 of .*gmlp\.pth .* no feature maps'),
        (good, dict(compare=tmp_path / 'gmlp.pth'), 'gmlp_ti16_224 .* no feature maps'),
        (good, dict(val_images=scenes / 'val'), 'without val_json'),
        (good, dict(batch=1), 'batch=1 must be at least 2'),
        (good, dict(epochs=2, iterations=2), 'say the same'),
    ):
        with pytest.raises(ValueError, match=message):
            detect(*source, checkpoint, tmp_path / 'out', **options)
    for name in ('images', 'val_images'):
        folders = dict(images=scenes / 'train', val_images=scenes / 'val') | {name: tmp_path / 'no'}
        with pytest.raises(FileNotFoundError, match=f"{name}='.*no' is not a folder"):
            detect(source[0], backbone=good, out=tmp_path, val_json=scenes / 'val.json', **folders)
    val = json.loads((scenes / 'val.json').read_text())
    number = val['annotations'][0]['category_id']
    next(c for c in val['categories'] if c['id'] == number)['name'] = 'zero'
    (tmp_path / 'val.json').write_text(json.dumps(val))
    options = dict(val_json=tmp_path / 'val.json', val_images=scenes / 'val')
    with pytest.raises(ValueError, match=r"other categories .*\['zero'\] are not among"):
        detect(*source, good, tmp_path / 'out', **options)
