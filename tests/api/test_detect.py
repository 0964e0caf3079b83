"""A COCO-format set in, a detector and its measured quality out."""

import io
import json
import math
import os
import re
import shutil
import signal
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from helpers import pretrained_backbone, pretrained_resnet, run_ranks, run_tool
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmsnclr.api.detect import detect
from mmsnclr.backbones import check_pretrained, read_backbone
from mmsnclr.checkpoints import Stored
from mmsnclr.cli import main
from mmsnclr.datasets.views import view_levels
from mmsnclr.engine import build_runner
from mmsnclr.evaluation.coco import evaluate_coco
from mmsnclr.recipes.detector_backbones import detector_backbone

QUICK = dict(size=64, iterations=2, batch=2, workers=0)


def test_both_backbones_are_measured_and_everything_is_written(run):
    detection, out, said = run
    summary = detection.summary.read_text()
    assert '|  | pretrained | random | pretrained is ahead of random by |' in summary
    for kind in ('bbox', 'segm'):
        by_run = [detection.results[name][kind] for name in ('pretrained', 'random')]
        assert [len(result.classes) for result in by_run] == [10, 10]
        assert all(0 <= result.ap <= 100 for result in by_run)
    assert ('An AP below 1 is of no use yet' in summary) == all(
        kind.ap < 1 for kinds in detection.results.values() for kind in kinds.values()
    )
    assert '![Precision and recall](precision_recall.png)' in summary
    assert (out / 'precision_recall.png').stat().st_size > 10_000
    pictures = sorted((out / 'pictures').iterdir())
    assert len(pictures) == 4 and all(f'pictures/{p.name}' in summary for p in pictures)
    assert Image.open(pictures[0]).size == (256, 128)  # the truth and, beside it, what was found
    assert detection.checkpoint.is_file() and (out / 'random/training/iter_2.pth').is_file()
    for setting in (
        r'detector +Mask R-CNN +all',
        r'size +64 +as asked for',
        r'anchors +scale',
        r'optimizer +AdamW +ahead of SGD on few images',
        r'lr +\S+ +0.002 for 16 images in a step, by the root',
    ):
        assert re.search(setting, said) and setting.partition(' ')[0] in summary


def test_images_to_validate_on_that_were_pretrained_on_are_said(run):
    detection, out, said = run
    sentence = f'{out.parent / "snclr.pth"} was pretrained on, and 0 more look almost like one.'
    for text in (said, detection.summary.read_text()):
        assert f'Of 4 images to validate on, 4 are equal to images that {sentence}' in text
        assert 'Of 4 images to validate on, 0 are equal to images to learn from' in text
    assert 'cannot be told' not in said  # of random weights
    assert (out / 'leakage.csv').read_text().count(',equal to,') == 4


def test_the_detector_starts_from_the_checkpoint_and_the_other_does_not(run):
    _, out, _ = run
    start = torch.load(out.parent / 'snclr.pth')['state_dict']['backbone.conv1.weight']
    distance = {}
    for name, folder in (('pretrained', out), ('random', out / 'random')):
        weights = torch.load(folder / 'training/iter_2.pth', weights_only=False)['state_dict']
        distance[name] = (weights['backbone.conv1.weight'] - start).abs().mean()
    assert distance['pretrained'] < 0.1 * distance['random']


def test_weights_by_other_names_are_copied_for_the_run(scenes, tmp_path):
    weights = torchvision.models.resnet18().state_dict()
    torch.save(dict(model=weights), tmp_path / 'theirs.pth')
    arguments = dict(backbone=tmp_path / 'theirs.pth', out=tmp_path / 'out', **QUICK)
    detect(scenes / 'train.json', scenes / 'train', **arguments)
    (tmp_path / 'theirs.pth').unlink()
    cfg = Config.fromfile(tmp_path / 'out/config.py')
    assert cfg.model.backbone.init_cfg.checkpoint == str(tmp_path / 'out/init/pretrained.pth')
    model = build_runner(cfg).model
    model.init_weights()
    assert torch.equal(model.backbone.layer4[1].conv2.weight, weights['layer4.1.conv2.weight'])


def test_the_config_says_why_and_differs_in_the_backbone_only(run):
    _, out, _ = run
    text = (out / 'config.py').read_text()
    assert 'anchors: scale' in text.split('"""')[1]
    configs = [Config.fromfile(path / 'config.py') for path in (out, out / 'random')]
    assert configs[0].model.backbone.pop('init_cfg').prefix == 'backbone.'
    assert configs[1].model.backbone.pop('init_cfg') is None
    assert configs[0].model == configs[1].model
    assert configs[0].train_dataloader == configs[1].train_dataloader
    assert configs[0].sync_bn == configs[1].sync_bn == 'torch'  # tools/train.py may use GPUs
    assert configs[0].model.data_preprocessor.mean == [80.0] * 3
    assert configs[0].train_dataloader.dataset.pipeline[3] == dict(type='RandomFlip', prob=0.5)
    assert configs[0].model.roi_head.mask_head.num_classes == 10
    assert configs[0].val_evaluator.keys() == {'type', 'ann_file', 'metric'}  # it rates by itself


def test_what_was_interrupted_is_continued(run, comparison, tmp_path):
    whole, folder, _ = run
    arguments = comparison(folder.parent) | dict(out=tmp_path)

    def die_in_the_second_validation():
        from mmdet.evaluation import CocoMetric

        validate, done = CocoMetric.evaluate, []

        def evaluate(metric, size):
            if done:
                for kind in metric.metrics:
                    Path(f'{metric.outfile_prefix}.{kind}.json').write_text('[{"image_id"')
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(validate(metric, size))
            return done[0]

        CocoMetric.evaluate = evaluate
        detect(**arguments)

    assert run_ranks(die_in_the_second_validation, 1) == [-signal.SIGKILL]
    first = (tmp_path / 'training/iter_2.pth').stat().st_mtime_ns
    differing = r'config\.py was written with other .*--resume.*optimizer\.lr was 0\.\d+, is 0\.1'
    with pytest.raises(ValueError, match=differing):
        detect(**(arguments | dict(lr=0.1)), resume=True)
    # The first versions named mmdet's configs in it.
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = ['mmdet::_base_/default_runtime.py']\n{config.read_text()}")
    # Nor did they write predictions whole.
    (tmp_path / 'training/predictions.bbox.json').write_text('[{"image_id"')
    own = dict(train_json=tmp_path / 'train.json', val_json=tmp_path / 'val.json')
    detection = detect(**arguments | own, resume=True)
    assert (tmp_path / 'training/iter_2.pth').stat().st_mtime_ns == first
    assert detection.summary.is_file()
    for name, kinds in detection.results.items():
        assert kinds['segm'].ap == pytest.approx(whole.results[name]['segm'].ap, abs=0.01)


def test_without_masks_it_is_faster_rcnn_and_a_drawn_fifth_validates(content, scenes, tmp_path):
    for annotation in content['annotations']:
        del annotation['segmentation']
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    arguments = [tmp_path / 'boxes.json', scenes / 'train', '--out', tmp_path / 'out']
    arguments += ['--backbone', pretrained_resnet(tmp_path / 'snclr.pth'), '--size', '64']
    arguments += ['--iterations', '2', '--batch', '2', '--workers', '0']
    result = CliRunner().invoke(main, ['detect', *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert '2 of the images were drawn to validate on (seed 0)' in result.stdout
    assert (
        re.search('detector +Faster R-CNN', result.stdout) and 'Iter(train) [2/2]' in result.stdout
    )
    config = Config.fromfile(tmp_path / 'out/config.py')
    assert config.model.type == 'FasterRCNN' and config.val_evaluator.metric == ['bbox']
    result = CliRunner().invoke(main, ['detect', *map(str, arguments)])
    assert result.exit_code == 1 and 'holds a run already' in result.stderr
    (tmp_path / 'out/training/iter_2.pth').unlink()  # as if it had ended before there was one
    result = CliRunner().invoke(main, ['detect', *map(str, arguments)])
    assert result.exit_code == 0 and 'Iter(train) [2/2]' in result.stdout
    assert f'mmsnclr predict {tmp_path}/out/training/iter_2.pth IMAGES' in result.stdout


@pytest.mark.slow
def test_the_tool_repeats_the_training_by_the_written_config(run, tmp_path):
    _, out, _ = run
    result = run_tool('tools/train.py', str(out / 'config.py'), '--work-dir', str(tmp_path))
    assert result.returncode == 0, result.stderr
    losses = []
    for folder in (out / 'training', tmp_path):
        (log,) = folder.glob('*/vis_data/scalars.json')
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        losses.append([line['loss'] for line in lines if 'loss' in line])
        assert ('coco/bbox_mAP' in lines[-1]) == (folder == tmp_path)
    assert losses[0] == pytest.approx(losses[1]) and len(losses[0]) == 2


@pytest.mark.slow
def test_a_detector_learns_the_digits(tmp_path):
    from mmsnclr.datasets.digits import write_digits

    scenes = write_digits(tmp_path, unlabelled=0, labelled=(0, 0), scenes=(200, 40)) / 'scenes'
    detection = detect(
        scenes / 'train.json',
        scenes / 'train',
        pretrained_resnet(tmp_path / 'snclr.pth'),
        tmp_path / 'detector',
        val_json=scenes / 'val.json',
        val_images=scenes / 'val',
        iterations=300,
        lr=0.02,
        flip=False,
        workers=0,
    )
    assert detection.results['pretrained']['bbox'].ap50 > 20


def test_transformers_and_timms_models_are_compared_each_by_its_optimiser(scenes, tmp_path):
    arch = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=96)
    vit = dict(type='MoCoV3ViT', arch=arch, img_size=32, patch_size=16)
    timm = dict(type='TIMMRepresentation', model_name='test_convnext')
    with redirect_stdout(io.StringIO()) as said:
        detection = detect(
            scenes / 'train.json',
            scenes / 'train',
            pretrained_backbone(tmp_path / 'vit.pth', vit),
            tmp_path / 'out',
            compare=pretrained_backbone(tmp_path / 'timm.pth', timm),
            **QUICK,
        )
    for kinds in detection.results.values():
        assert all(0 <= kind.ap <= 100 for kind in kinds.values())
    for setting in (
        r'neck +SimpleFeaturePyramid, strides 4, 8, 16, 32, 64 ',
        r'optimizer +AdamW .* at 0.7 of the next',
        r'lr +3.5\S+e-05 +0.0001 for 16 images in a step, by the root',
        r'neck \(compared\) +FPN, strides 4, 8, 16, 32, 64 ',
        r'optimizer \(compared\) +AdamW +what such backbones are usually trained with\n',
    ):
        assert re.search(setting, said.getvalue()), setting
    assert 'lr (compared)' not in said.getvalue()  # the same
    checkpoint = torch.load(detection.checkpoint, weights_only=False)
    start = torch.load(tmp_path / 'vit.pth')['state_dict']
    for key in (key for key in start if key.startswith('backbone.')):
        ours, theirs = checkpoint['state_dict'][key], start[key]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    'backbone',
    [
        dict(
            type='VisionTransformer',
            arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=384),
            img_size=96,
            patch_size=16,
        ),
        dict(type='TIMMRepresentation', model_name='test_convnext'),
    ],
    ids=['vit', 'convnext'],
)
def test_a_detector_learns_eight_images_by_heart(tmp_path, backbone):
    from mmsnclr.datasets.digits import write_digits

    scenes = write_digits(tmp_path, unlabelled=0, labelled=(0, 0), scenes=(8, 1)) / 'scenes'
    detection = detect(
        scenes / 'train.json',
        scenes / 'train',
        pretrained_backbone(tmp_path / 'start.pth', backbone),
        tmp_path / 'detector',
        val_json=scenes / 'train.json',
        size=96,
        flip=False,
        workers=0,
        iterations=400,
        lr=1e-3,
    )
    assert detection.results['pretrained']['bbox'].ap50 > 90


def test_copied_weights_are_those_of_the_backbone_a_run_began_with(scenes, tmp_path, untrained):
    for name in ('one', 'other'):
        torch.save(dict(model=torchvision.models.resnet18().state_dict()), tmp_path / f'{name}.pth')
    given = dict(images=scenes / 'train', out=tmp_path / 'out', **QUICK)
    copy, key = tmp_path / 'out/init/pretrained.pth', 'layer1.0.conv1.weight'
    # None leaves a checkpoint, as if it had ended before.
    for name, resume in (('one', False), ('other', False), ('other', True)):
        detect(scenes / 'train.json', backbone=tmp_path / f'{name}.pth', resume=resume, **given)
        expected = torch.load(tmp_path / f'{name}.pth')['model'][key]
        assert torch.load(copy)['state_dict'][f'backbone.{key}'].equal(expected)
    with pytest.raises(ValueError, match=r'one\.pth holds other weights than .*pretrained\.pth'):
        detect(scenes / 'train.json', backbone=tmp_path / 'one.pth', resume=True, **given)
    with pytest.raises(ValueError, match=r'backbone=.* would be written over'):
        detect(scenes / 'train.json', backbone=copy, **given)


def test_a_yolo_set_of_12_bits_tells_all_that_is_needed(content, scenes, tmp_path, untrained):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels').mkdir()
    for image in content['images']:
        values = np.asarray(Image.open(scenes / 'train' / image['file_name']).convert('L'))
        name = Path(image['file_name'])
        Image.fromarray(values.astype(np.uint16) << 4).save(tmp_path / 'images' / name)
        lines = [
            f'{a["category_id"] - 1} {" ".join(str(v / 128) for v in a["segmentation"][0])}\n'
            for a in content['annotations']
            if a['image_id'] == image['id']
        ]
        (tmp_path / 'labels' / name.with_suffix('.txt')).write_text(''.join(lines))
    names = [category['name'] for category in content['categories']]
    (tmp_path / 'data.yaml').write_text(f'train: images\nnames: {names}\n')
    backbone, out = pretrained_resnet(tmp_path / 'snclr.pth'), tmp_path / 'out'
    arguments = ['detect', tmp_path / 'data.yaml', '--backbone', backbone, '--out', out]
    result = CliRunner().invoke(main, [*map(str, arguments), '--workers', '0'])
    assert result.exit_code == 0, result.output
    assert f'written to {out}/train.json and {out}/val.json' in result.stdout
    config = Config.fromfile(out / 'config.py')
    assert config.model.type == 'MaskRCNN'
    assert config.train_dataloader.dataset.data_prefix.img == str(tmp_path / 'images')
    for loader in (config.train_dataloader, config.val_dataloader):
        load = loader.dataset.pipeline[0]
        assert load.type == 'LoadAnyImage' and load.levels[1] > 3000
        assert f'to {load.levels[1]:,} are black to white' in result.stdout
        assert view_levels(config) == load.levels  # by which `embed` and others see them as well


def test_a_name_that_is_not_utf8_is_linked_in_the_summary(content, scenes, tmp_path, untrained):
    folder, image = shutil.copytree(scenes / 'train', tmp_path / 'images'), content['images'][0]
    (folder / image['file_name']).rename(folder / 'z\udcff.png')
    image['file_name'] = 'z\udcff.png'
    (tmp_path / 'set.json').write_text(json.dumps(content))
    given = QUICK | dict(out=tmp_path / 'out', val_json=tmp_path / 'set.json')
    detection = detect(tmp_path / 'set.json', folder, 'random', **given)
    assert '![](pictures/00_z%FF.jpg)' in detection.summary.read_text()
    assert (tmp_path / 'out/pictures/00_z\udcff.jpg').is_file()


@torch.no_grad()
def test_a_resnet_of_timm_suits_a_detector_too(tmp_path):
    from mmdet.registry import MODELS as MMDET_MODELS

    resnet = dict(type='TIMMRepresentation', model_name='resnet18')
    pretrained_backbone(tmp_path / 'timm.pth', resnet)
    trained = read_backbone(Stored.read(tmp_path / 'timm.pth'))
    start = detector_backbone(trained, tmp_path / 'timm.pth')
    with DefaultScope.overwrite_default_scope('mmdet'):
        ours = MMDET_MODELS.build(start.config | dict(init_cfg=start.init_cfg))
        check_pretrained(torch.nn.ModuleDict(dict(backbone=ours)))
        ours.init_weights()
    images = torch.randn(2, 3, 64, 64)
    ours.eval()
    actual = ours(images)[-1].mean(dim=(2, 3))
    assert torch.allclose(actual, trained.backbone(images)[-1], atol=1e-5)


def test_average_precision_is_per_class_and_knows_perfect_and_empty(content, scenes):
    path = scenes / 'train.json'
    perfect = [dict(a, score=0.9) for a in content['annotations']]
    present = {a['category_id'] for a in perfect}
    for kind in ('bbox', 'segm'):
        result = evaluate_coco(path, perfect, kind)
        assert (result.ap, result.ap50, result.ap75) == pytest.approx((100, 100, 100))
        for number, one in enumerate(result.classes, start=1):
            assert one.objects == sum(a['category_id'] == number for a in perfect)
            assert one.ap == pytest.approx(100) if number in present else math.isnan(one.ap)
        assert evaluate_coco(path, [], kind).ap == 0
    first = min(present)
    without = [d for d in perfect if d['category_id'] != first]
    result = evaluate_coco(path, without)
    assert result.classes[first - 1].ap == 0
    assert result.ap == pytest.approx(100 * (len(present) - 1) / len(present))
