"""What every config is by its paper: images, batch, epochs, rates."""

import copy
from functools import cache

import pytest
from helpers import ROOT
from mmengine.config import Config

CONFIGS = sorted(
    path.relative_to(ROOT / 'configs').as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if not {'_base_', 'demo'} & set(path.parts)
)
# Images, GPUs, batch of all of them, epochs, warm-up, optimiser, peak learning rate, weight decay.
PRETRAINING = dict(images=1_281_167, gpus=32, batch=4096, start=1e-6)
R50 = dict(PRETRAINING, warmup=10, optimizer='Lars', peak=0.3 * 4096 / 256, decay=1.5e-6)
VIT = dict(PRETRAINING, warmup=40, optimizer='AdamW', peak=1.5e-4 * 4096 / 256, decay=0.1)
SGD = dict(gpus=8, optimizer='SGD')
LINEAR = dict(SGD, images=1_281_167, batch=4096, epochs=90, warmup=0, decay=0)
FEW_LABELS = dict(SGD, batch=256, epochs=20, warmup=0, peak=0.002, decay=0)
# mmdet's: the images with objects, steps of warm-up, falls after these shares of the training.
DETECTION = dict(SGD, batch=16, start=2e-5, peak=0.02, decay=1e-4, warmup_steps=500)
COCO = dict(DETECTION, images=117_266, epochs=12, falls=(2 / 3, 11 / 12))
COCO_90K = dict(DETECTION, steps=90_000, warmup_steps=1000, falls=(2 / 3, 8 / 9))
VOC = dict(DETECTION, images=16_551, steps=24_000, warmup_steps=100, falls=(3 / 4, 11 / 12))
# Each image eight times in an epoch.
CITYSCAPES = dict(DETECTION, images=8 * 2975, batch=8, epochs=8, start=1e-5, peak=0.01)
CITYSCAPES |= dict(falls=(7 / 8,))
# Norms and positions do not decay.
ADAMW_COCO = dict(COCO, optimizer='AdamW', start=1e-7, peak=1e-4, decay=0.1, decays='weights')
RECIPES = {
    **{f'snclr_r50_{e}e.py': dict(R50, epochs=e) for e in (100, 200, 400, 800)},
    **{f'snclr_vit-{v}_{e}e.py': dict(VIT, epochs=e) for e in (100, 200, 300) for v in 'sb'},
    'snclr_timm_300e.py': dict(VIT, epochs=300),
    'snclr_r50_800e_released.py': dict(R50, epochs=800, decay=1e-6, drop_last=True),
    'snclr_vit-s_300e_released.py': dict(VIT, epochs=300, peak=1.5e-5 * 4096 / 256, drop_last=True),
    'snclr_r50_8xb128_200e.py': dict(R50, epochs=200, gpus=8, batch=1024, peak=0.3 * 4),
    'snclr_r50_1xb256_200e.py': dict(R50, epochs=200, gpus=1, batch=256, peak=0.3),
    **{f'{m}_r50_{e}e.py': dict(R50, epochs=e) for m in ('nnclr', 'sce') for e in (100, 200)},
    'sce_r50_200e_multicrop.py': dict(R50, epochs=200),
    **{n: dict(VIT, epochs=300) for n in CONFIGS if n.startswith('ablations/vit-s_300e')},
    **{n: dict(R50, epochs=100) for n in CONFIGS if n.startswith('ablations/r50_100e')},
    **{n: dict(R50, epochs=200) for n in CONFIGS if n.startswith('baselines/')},
    'linear_r50_in1k.py': dict(LINEAR, peak=0.1 * 4096 / 256),
    **{
        f'linear_vit-{v}_in1k.py': dict(LINEAR, peak=3 * 4096 / 256)
        for v in ('s', 'b', 's_released')
    },
    'linear_timm_in1k.py': dict(LINEAR, peak=3 * 4096 / 256),
    **{n: dict(FEW_LABELS, images=12_811) for n in CONFIGS if n.endswith('_1pct.py')},
    **{n: dict(FEW_LABELS, images=128_116) for n in CONFIGS if n.endswith('_10pct.py')},
    **{n: COCO for n in CONFIGS if n.endswith('1x_coco.py')},
    **{n: dict(COCO, epochs=24) for n in CONFIGS if n.endswith('2x_coco.py')},
    'retinanet_snclr_1x_coco.py': dict(COCO, start=1e-5, peak=0.01),
    **{f'maskrcnn_snclr_vit-{v}_1x_coco.py': ADAMW_COCO for v in 'sb'},
    'maskrcnn_snclr_timm_1x_coco.py': dict(ADAMW_COCO, decay=0.05),
    **{
        f'maskrcnn_snclr_syncbn_90k_coco-{p}pct.py': dict(COCO_90K, images=117_266 * p // 100)
        for p in (1, 2, 5, 10)
    },
    'fasterrcnn_snclr_c4_24k_voc0712.py': VOC,
    'maskrcnn_snclr_syncbn_1x_cityscapes.py': CITYSCAPES,
    'maskrcnn_snclr_syncbn_ms-1x_lvis-v1.py': dict(COCO, images=100_170),
}


def detects(name):
    return name.startswith(('maskrcnn', 'fasterrcnn', 'retinanet', 'cascademaskrcnn'))


def datasets(path, dataset):
    """The data sets inside of others, by their settings."""
    if 'dataset' in dataset:
        yield from datasets(f'{path}.dataset', dataset.dataset)
    elif 'datasets' in dataset:
        for number, inner in enumerate(dataset.datasets):
            yield from datasets(f'{path}.datasets.{number}', inner)
    else:
        yield path, dataset


def load(name):
    if detects(name):
        pytest.importorskip('mmdet')
    return copy.deepcopy(_read(name))


@cache
def _read(name):
    return Config.fromfile(ROOT / 'configs' / name)
