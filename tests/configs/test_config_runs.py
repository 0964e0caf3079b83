"""Every shipped config trains two steps through the real Runner, made small by overrides alone."""

import json

import numpy as np
import pytest
import torch
from helpers import ROOT, run_tool
from mmengine.config import Config
from mmengine.hooks import Hook
from paper_recipes import CONFIGS
from PIL import Image

from mmsnclr.engine import build_runner

QUICK = {
    'snclr_r50_100e.py',
    'snclr_vit-s_100e.py',
    'snclr_vit-s_300e_released.py',
    'nnclr_r50_100e.py',
    'sce_r50_200e_multicrop.py',
    'linear_vit-s_in1k.py',
    'semisup_r50_8xb32_1pct.py',
    'baselines/byol_r50_200e.py',
    'maskrcnn_snclr_syncbn_1x_coco.py',
}
PICKED = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CONFIGS]


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """Eight and four images in ImageNet's folders."""
    root = tmp_path_factory.mktemp('imagenet')
    random = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for name in ('n01440764', 'n01443537'):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{number}.JPEG')
    for percent in ('1', '10'):
        run = run_tool(
            'tools/dataset_converters/imagenet_subset.py', str(root), f'--percent={percent}'
        )
        assert run.returncode == 0, run.stderr
        path = root / f'meta/train_{percent}percent.txt'
        path.write_text(path.read_text() * 4)  # one image of each class: two batches' worth
    return root


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """Four images with a person in each, as COCO."""
    root = tmp_path_factory.mktemp('coco')
    random = np.random.default_rng(0)
    (root / 'annotations').mkdir()
    for split in ('train2017', 'val2017'):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(1, 5):
            pixels = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f'{number}.jpg')
            images.append(dict(id=number, file_name=f'{number}.jpg', height=64, width=96))
            x, y, w, h = 8, 8, 48, 40
            annotations.append(
                dict(
                    id=number,
                    image_id=number,
                    category_id=1,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
        content = dict(
            images=images, annotations=annotations, categories=[dict(id=1, name='person')]
        )
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))
    return root


class Watch(Hook):
    """Records losses, and what moved."""

    def before_train(self, runner):
        self.losses = []
        self.before = self.state(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss'].detach()))

    def after_train(self, runner):
        after = self.state(runner)
        self.moved = {name for name, value in self.before.items() if not value.equal(after[name])}

    @staticmethod
    def state(runner):
        return {name: value.clone() for name, value in runner.model.state_dict().items()}


def small(name, root, work_dir):
    config = Config.fromfile(ROOT / 'configs' / name)
    config.work_dir = str(work_dir)
    config.log_level = 'ERROR'
    options = {
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_cfg.max_epochs': 1,
    }
    if config.get('val_dataloader'):
        options |= {
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'val_dataloader.batch_size': 2,
        }
    if config.default_scope == 'mmdet':
        config.visualizer.name = str(work_dir)  # runs of one process would share mmdet's
        options |= {'train_dataloader.batch_size': 2, 'model.backbone.init_cfg': None}
        if config.model.backbone.type == 'TIMMFeatures':
            options['model.backbone.model_name'] = 'test_vit'  # another neck, too
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            options[f'{loader}.dataset.data_root'] = f'{root}/'
            steps = config[loader].dataset.pipeline
            position = next(i for i, step in enumerate(steps) if step.type == 'Resize')
            options[f'{loader}.dataset.pipeline.{position}.scale'] = (96, 64)
        for evaluator in ('val_evaluator', 'test_evaluator'):
            options[f'{evaluator}.ann_file'] = f'{root}/annotations/instances_val2017.json'
    else:
        for loader in ('train_dataloader', 'val_dataloader'):
            if config.get(loader):
                options[f'{loader}.dataset.data_root'] = str(root)
                options[f'{loader}.dataset.metainfo'] = dict(classes=['tench', 'goldfish'])
        if config.get('val_dataloader'):
            options['model.backbone.init_cfg'] = None
    for number, view in enumerate(config.train_dataloader.dataset.pipeline[0].get('views', ())):
        options[f'train_dataloader.dataset.pipeline.0.views.{number}.size'] = min(
            32, view.get('size', 224)
        )
    if config.get('param_scheduler') and 'linear' not in name and 'semisup' not in name:
        options['param_scheduler.0.start_factor'] = 0.5
    if 'queue' in config.model:
        options |= {
            'model.queue.length': 6,
            'model.neck.hid_channels': 32,
            'custom_hooks.0.warmup_epochs': 0,
        }
        if config.model.head.get('neighbors', 1) > 1:
            options['model.head.neighbors'] = 3
        if 'predictor' in config.model.head:
            options['model.head.predictor.hid_channels'] = 32
        if 'img_size' in config.model.backbone:
            options['model.backbone.img_size'] = 32
        if config.model.backbone.type == 'TIMMRepresentation':
            options['model.backbone.img_size'] = 32
    config.merge_from_dict(options)
    return config


@pytest.mark.parametrize('name', PICKED)
def test_two_steps_train_what_should_be_trained(name, imagenet, coco, tmp_path):
    detects = 'coco' in name
    if detects:
        pytest.importorskip('mmdet')
    config = small(name, coco if detects else imagenet, tmp_path)
    runner, watch = build_runner(config), Watch()
    runner.register_hook(watch)
    runner.train()
    assert len(watch.losses) == 2 and np.isfinite(watch.losses).all()
    convolutions = [m.weight for m in runner.model.modules() if isinstance(m, torch.nn.Conv2d)]
    last = all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    assert last == (not detects)
    trained = {n for n, p in runner.model.named_parameters() if p.requires_grad}
    if name.startswith('linear'):
        assert watch.moved and all(moved.startswith('head.') for moved in watch.moved)
    elif detects:
        if config.model.backbone.type != 'ResNet':
            assert {n for n in trained if n.startswith('backbone.')} <= watch.moved
            return
        frozen = {n for n in watch.moved if n.startswith(('backbone.conv1', 'backbone.layer1'))}
        assert bool(frozen) == ('syncbn' in name or 'random' in name)
        assert any(n.startswith('backbone.layer4') for n in watch.moved)
    elif 'queue' not in config.model:
        assert any(n.startswith('backbone.') for n in watch.moved & trained)
    else:
        assert runner.model.queue.fill == 6
        assert trained <= watch.moved
        assert any(n.startswith('momentum_encoder') for n in watch.moved)
        assert torch.isfinite(runner.model.queue.features).all()
