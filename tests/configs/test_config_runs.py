"""Every shipped config trains two steps through the real Runner, made small by overrides alone."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, run_tool
from mmengine.config import Config
from mmengine.hooks import Hook
from paper_recipes import CONFIGS, datasets, detects, load
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
    'maskrcnn_snclr_vit-s_1x_coco.py',
    'maskrcnn_snclr_timm_1x_coco.py',
    'fasterrcnn_snclr_c4_24k_voc0712.py',
    'maskrcnn_snclr_syncbn_1x_cityscapes.py',
    'maskrcnn_snclr_syncbn_ms-1x_lvis-v1.py',
    'linear_timm_in1k.py',
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


# Annotation files of COCO's format: split, in LVIS and Cityscapes too.
ANNOTATIONS = {
    'instances_train2017': 'train2017',
    'instances_val2017': 'val2017',
    'lvis_v1_train': 'train2017',
    'lvis_v1_val': 'val2017',
    'instancesonly_filtered_gtFine_train': 'leftImg8bit/train',
    'instancesonly_filtered_gtFine_val': 'leftImg8bit/val',
}
VOC_OBJECT = """<annotation><size><width>96</width><height>64</height></size><object>
<name>person</name><difficult>0</difficult>
<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>56</xmax><ymax>48</ymax></bndbox>
</object></annotation>"""


@pytest.fixture(scope='module')
def detection(tmp_path_factory):
    """Four images with a person in each, as COCO, LVIS, Cityscapes and Pascal VOC."""
    root = tmp_path_factory.mktemp('detection')
    random = np.random.default_rng(0)

    def images(folder):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(1, 5):
            pixels = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f'{number}.jpg')

    (root / 'annotations').mkdir()
    for name, folder in ANNOTATIONS.items():
        images(folder)
        content = people(range(1, 5), folder)
        (root / f'annotations/{name}.json').write_text(json.dumps(content))
    for year, split in (('2007', 'trainval'), ('2012', 'trainval'), ('2007', 'test')):
        images(f'VOC{year}/JPEGImages')
        for folder in ('ImageSets/Main', 'Annotations'):
            (root / f'VOC{year}' / folder).mkdir(parents=True, exist_ok=True)
        names = '1\n2\n3\n4\n'
        (root / f'VOC{year}/ImageSets/Main/{split}.txt').write_text(names)
        for number in range(1, 5):
            (root / f'VOC{year}/Annotations/{number}.xml').write_text(VOC_OBJECT)
    return root


def people(ids, folder):
    """One person in each image of 64 x 96 pixels."""
    images, annotations = [], []
    for number in ids:
        name = f'{(number - 1) % 4 + 1}.jpg'
        url = f'http://images.cocodataset.org/{folder}/{name}'
        lvis = dict(coco_url=url, neg_category_ids=[], not_exhaustive_category_ids=[])
        images.append(dict(id=number, file_name=name, height=64, width=96, **lvis))
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
    return dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=1, name='person', frequency='f')],
        licenses=[],
        info={},
    )


@pytest.fixture(scope='module')
def coco_shares(detection, tmp_path_factory):
    """Some of COCO's labels, drawn by mmdet's tool from 200 images that are 4 in truth."""
    mmdet = pytest.importorskip('mmdet')
    whole = tmp_path_factory.mktemp('whole')
    (whole / 'annotations').mkdir()
    content = people(range(1, 201), 'train2017')
    (whole / 'annotations/instances_train2017.json').write_text(json.dumps(content))
    tool = runpy.run_path(str(Path(mmdet.__file__).parent / '.mim/tools/misc/split_coco.py'))
    for percent in (1, 2, 5, 10):
        tool['split_coco'](str(whole), str(detection / 'semi_anns'), percent, 1)


class Watch(Hook):
    """Records losses, and what moved."""

    def before_train(self, runner):
        self.losses, self.metrics = [], None
        self.before = self.state(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss'].detach()))

    def after_val_epoch(self, runner, metrics=None):
        self.metrics = metrics

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
    }
    if config.train_cfg.get('max_iters'):
        options |= {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2}
    else:
        options['train_cfg.max_epochs'] = 1
    if config.get('val_dataloader'):
        options |= {
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'val_dataloader.batch_size': 2,
        }
    if detects(name):
        options |= small_detector(config, root)
        options['visualizer.name'] = work_dir.name  # mmengine keeps visualizers by name
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
    if name == 'linear_timm_in1k.py':  # with norms whose statistics must not move
        options |= {'model.backbone.model_name': 'test_resnet', 'model.head.in_channels': 96}
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


def small_detector(config, root):
    """Options that have a detector train on few regions of :func:`detection`'s images."""
    options = {'train_dataloader.batch_size': 2, 'model.backbone.init_cfg': None}
    if config.model.backbone.type == 'TIMMFeatures':
        options['model.backbone.model_name'] = 'test_vit'  # which the neck follows
    if isinstance(config.model.train_cfg.get('rcnn'), dict):  # no cascade's list
        options |= {
            'model.train_cfg.rcnn.sampler.num': 8,
            'model.test_cfg.rpn.max_per_img': 8,
            'model.test_cfg.rcnn.max_per_img': 4,
        }
    if 'shared_head' in config.model.get('roi_head', {}):
        options['model.roi_head.shared_head.init_cfg'] = None
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for path, dataset in datasets(f'{loader}.dataset', config[loader].dataset):
            options[f'{path}.data_root'] = f'{root}/'
            for number, step in enumerate(dataset.pipeline):
                if 'Resize' in step.type:
                    size = (96, 64)
                    several = {'RandomChoiceResize': ('scales', [size])}
                    several['RandomResize'] = 'scale', [size, size]
                    key, value = several.get(step.type, ('scale', size))
                    options[f'{path}.pipeline.{number}.{key}'] = value
    if 'times' in config.train_dataloader.dataset:
        options['train_dataloader.dataset.times'] = 1
    for key in ('val_evaluator', 'test_evaluator'):
        if isinstance(config[key], list):  # Cityscapes' own measure wants a package of its own
            config[key] = config[key][0]
        if 'ann_file' in config[key]:
            options[f'{key}.ann_file'] = f'{root}/annotations/{Path(config[key].ann_file).name}'
    return options


@pytest.mark.parametrize('name', PICKED)
def test_two_steps_train_what_should_be_trained(
    name, imagenet, detection, tmp_path, request, monkeypatch
):
    if detects(name):
        pytest.importorskip('mmdet')
    if 'lvis' in name:
        pytest.importorskip('lvis')
        monkeypatch.setattr(np, 'float', float, raising=False)  # its 0.5.3 is of numpy before 1.24
    if 'pct' in name and detects(name):
        request.getfixturevalue('coco_shares')
    config = small(name, detection if detects(name) else imagenet, tmp_path)
    runner, watch = build_runner(config), Watch()
    runner.register_hook(watch)
    runner.train()
    assert len(watch.losses) == 2 and np.isfinite(watch.losses).all()
    assert (watch.metrics is None) == (config.get('val_dataloader') is None)
    if 'voc' in name:
        assert {f'pascal_voc/{measure}' for measure in ('mAP', 'AP50', 'AP75')} <= set(
            watch.metrics
        )
    convolutions = [m.weight for m in runner.model.modules() if isinstance(m, torch.nn.Conv2d)]
    last = all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    assert last == (not detects(name))
    trained = {n for n, p in runner.model.named_parameters() if p.requires_grad}
    if name.startswith('linear'):
        assert watch.moved and all(moved.startswith('head.') for moved in watch.moved)
    elif detects(name):
        if config.model.backbone.type != 'ResNet':
            assert {n for n in trained if n.startswith('backbone.')} <= watch.moved
            return
        frozen = {n for n in watch.moved if n.startswith(('backbone.conv1', 'backbone.layer1'))}
        assert bool(frozen) == any(word in name for word in ('syncbn', 'random', 'c4'))
        assert any('layer4' in n for n in watch.moved)
    elif 'queue' not in config.model:
        assert any(n.startswith('backbone.') for n in watch.moved & trained)
    else:
        assert runner.model.queue.fill == 6
        assert trained <= watch.moved
        assert any(n.startswith('momentum_encoder') for n in watch.moved)
        assert torch.isfinite(runner.model.queue.features).all()


@pytest.mark.parametrize('percent', [1, 2, 5, 10])
def test_shares_of_coco_are_the_files_that_mmdets_tool_writes(percent, detection, coco_shares):
    config = load(f'maskrcnn_snclr_syncbn_90k_coco-{percent}pct.py')
    share = json.loads((detection / config.train_dataloader.dataset.ann_file).read_text())
    assert 0 < len(share['images']) == len(share['annotations']) <= 2 * percent
