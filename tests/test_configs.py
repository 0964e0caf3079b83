"""Every shipped config builds, and is the recipe that it says it is."""

import copy

import pytest
import torch
from helpers import ROOT, images
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, init_default_scope
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmpretrain.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

CONFIGS = sorted(
    path.relative_to(ROOT / 'configs').as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)


def load(name):
    if 'maskrcnn' in name:
        pytest.importorskip('mmdet')
    return Config.fromfile(ROOT / 'configs' / name)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_model_and_the_pipelines_build(name):
    config = load(name)
    init_default_scope(config.default_scope)
    model = ROOT_MODELS.build(config.model)
    assert sum(p.numel() for p in model.parameters()) > 10_000
    for loader in ('train_dataloader', 'val_dataloader'):
        for transform in config.get(loader, {}).get('dataset', {}).get('pipeline', ()):
            assert ROOT_TRANSFORMS.build(transform) is not None
    assert config.custom_imports.imports == ['mmsnclr']


@pytest.mark.parametrize('name', CONFIGS)
def test_configs_can_be_inherited_from_other_projects(tmp_path, name):
    load(name)
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmsnclr::_base_/../{name}'\n")
    config = Config.fromfile(path)
    init_default_scope(config.default_scope)
    for hook in config.get('custom_hooks', ()):
        hook.pop('priority', None)
        assert HOOKS.build(hook) is not None
    for transform in config.train_dataloader.dataset.pipeline:
        assert ROOT_TRANSFORMS.build(transform) is not None


IMAGENET = 1_281_167
# Epochs, warm-up, batch and GPUs, peak learning rate; the rest is common to all.
R50 = dict(warmup=10, gpus=32, batch=4096, peak=0.3 * 4096 / 256)
VIT = dict(warmup=40, gpus=32, batch=4096, peak=1.5e-4 * 4096 / 256)
SCHEDULES = {
    **{f'snclr_r50_{e}e.py': dict(R50, epochs=e) for e in (100, 200, 400, 800)},
    **{f'snclr_vit-{v}_{e}e.py': dict(VIT, epochs=e) for e in (100, 200, 300) for v in 'sb'},
    'snclr_timm_300e.py': dict(VIT, epochs=300),
    'snclr_vit-s_300e_released.py': dict(VIT, epochs=300, peak=1.5e-5 * 4096 / 256),
    'snclr_r50_8xb128_200e.py': dict(R50, epochs=200, gpus=8, batch=1024, peak=0.3 * 4),
    'snclr_r50_1xb256_200e.py': dict(R50, epochs=200, gpus=1, batch=256, peak=0.3),
    **{f'{m}_r50_{e}e.py': dict(R50, epochs=e) for m in ('nnclr', 'sce') for e in (100, 200)},
    'sce_r50_200e_multicrop.py': dict(R50, epochs=200),
    **{name: dict(VIT, epochs=300) for name in CONFIGS if name.startswith('ablations/')},
}


def test_every_pretraining_config_has_its_schedule_checked():
    recipes = {name for name in CONFIGS if 'queue' in load(name).model}
    assert set(SCHEDULES) == {name for name in recipes if not name.startswith('demo/')}


@pytest.mark.parametrize('name', SCHEDULES)
def test_the_learning_rate_warms_up_to_its_peak_and_falls_to_zero(name):
    recipe, config = SCHEDULES[name], load(name)
    assert config.train_dataloader.batch_size * recipe['gpus'] == recipe['batch']
    assert config.auto_scale_lr.base_batch_size == recipe['batch']
    assert config.train_cfg.max_epochs == recipe['epochs']
    steps = -(-IMAGENET // recipe['batch'])
    rate = config.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedulers = []
    for scheduler in copy.deepcopy(config.param_scheduler):
        kind = PARAM_SCHEDULERS.get(scheduler.pop('type'))
        scheduler.pop('convert_to_iter_based')
        schedulers.append(
            kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=steps, **scheduler)
        )
    rates = []
    for _ in range(recipe['epochs'] * steps):
        rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == pytest.approx(recipe['peak'], rel=1e-4)
    assert rates.index(max(rates)) == pytest.approx(recipe['warmup'] * steps, abs=2)
    middle = (recipe['epochs'] + recipe['warmup']) * steps // 2
    assert rates[middle] == pytest.approx(recipe['peak'] / 2, rel=1e-2)
    assert optimizer.param_groups[0]['lr'] < 1e-5 * recipe['peak']


@pytest.mark.parametrize('name', SCHEDULES)
def test_models_are_the_recipes(name):
    model = load(name).model
    kind, _, change = name.removesuffix('.py').rpartition('/')[-1].partition('_300e_')
    if model.type != 'SNCLR':
        return
    expected = dict(
        k=30, length=128_000, t=0.2, form='log_sum', where='both', positiveness='attention'
    )
    expected |= {
        'uniform': dict(positiveness='uniform'),
        'positives': dict(where='positives'),
        'negatives': dict(where='negatives'),
        'sum-log': dict(form='sum_log'),
        'released': dict(form='sum_log'),
        **{f'k{k}': dict(k=k) for k in (10, 20, 40, 50)},
        **{f'length-{n}k': dict(length=1000 * n) for n in (16, 32, 64)},
    }.get(change, {})
    assert expected == dict(
        k=model.head.neighbors,
        length=model.queue.length,
        t=model.head.loss.temperature,
        form=model.head.loss.get('form', 'log_sum'),
        where=model.head.loss.get('neighbors_in', 'both'),
        positiveness=model.head.get('positiveness', 'attention'),
    )
    assert model.queue.dim == model.neck.out_channels == 256
    assert model.neck.hid_channels == model.head.predictor.hid_channels == 4096
    batch = SCHEDULES[name]['batch']
    assert model.momentum_coefficient == pytest.approx(0.99 ** (batch / 4096))
    hooks = load(name).custom_hooks
    assert [hook.type for hook in hooks] == ['NeighborQueueHook', 'ViewSeedHook']
    warmup = {'released': 0, 'no-neighbors': 301}.get(change, SCHEDULES[name]['warmup'])
    assert hooks[0].warmup_epochs == warmup
    assert kind


def test_the_released_variant_is_the_released_code():
    model = load('snclr_vit-s_300e_released.py').model
    assert model.queue.sync is False and model.end_momentum_coefficient == 1.0
    built = MODELS.build(model)
    assert built.head.loss_module.loss_weight == pytest.approx(2 * 0.2)
    assert built.backbone.layers[0].attn.num_heads == 12
    assert not built.backbone.pos_embed.requires_grad
    assert not built.backbone.patch_embed.projection.weight.requires_grad
    norms = [m for m in built.neck.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) == 3 and norms[-1].weight is None
    predictor = [m for m in built.head.predictor.modules() if isinstance(m, _BatchNorm)]
    assert len(predictor) == 2 and predictor[-1].weight is None


@pytest.mark.parametrize(('size', 'width', 'heads'), [('s', 384, 6), ('b', 768, 12)])
def test_vits_are_deits(size, width, heads):
    backbone = MODELS.build(load(f'snclr_vit-{size}_300e.py').model).backbone
    assert (backbone.embed_dims, len(backbone.layers)) == (width, 12)
    assert backbone.layers[0].attn.num_heads == heads
    assert backbone(torch.zeros(1, 3, 224, 224))[0].shape == (1, width)


def test_any_timm_model_by_one_option():
    config = load('snclr_timm_300e.py')
    config.model.backbone.model_name = 'resnet10t'
    model = MODELS.build(config.model)
    assert model.neck(model.backbone(torch.zeros(2, 3, 64, 64)))[0].shape == (2, 256)


def lars_groups():
    config = load('snclr_r50_800e.py')
    model = MODELS.build(config.model)
    return model, build_optim_wrapper(model, config.optim_wrapper).optimizer


def test_lars_neither_decays_nor_adapts_norms_and_biases():
    model, optimizer = lars_groups()
    excluded = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, _BatchNorm) or name == 'bias'
    }
    for group in optimizer.param_groups:
        for parameter in group['params']:
            if parameter.requires_grad:
                assert (group['weight_decay'] == 0) == (parameter in excluded)
                assert not group['always_adapt']
    # What is left alone takes plain steps of momentum SGD; the rest does not.
    generator = torch.Generator().manual_seed(0)
    before = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            before[name] = parameter.detach().clone()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = torch.allclose(before[name] - 4.8 * parameter.grad, parameter, atol=1e-5)
            assert plain == (parameter in excluded), name
            if not plain:
                norm = before[name].norm()
                step = (before[name] - parameter).norm()
                torch.testing.assert_close(step, 4.8 * 0.001 * norm, rtol=1e-2, atol=1e-6)


def test_linear_evaluation_freezes_the_backbone():
    config = load('linear_r50_in1k.py')
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    views, samples = images(2, seed=0)
    for sample in samples:
        sample.set_gt_label(1)
    model.loss(views[0], samples)['loss'].backward()
    optimizer.step()
    assert all(torch.equal(before[n], v) for n, v in model.backbone.state_dict().items())
    assert config.optim_wrapper.optimizer.lr == pytest.approx(0.1 * 4096 / 256)
    assert config.train_dataloader.batch_size * 8 == 4096


def test_mask_rcnn_is_mmdets_but_for_the_backbones_weights(tmp_path):
    pytest.importorskip('mmdet')
    parent = tmp_path / 'parent.py'
    parent.write_text("_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n")
    ours, parent = load('maskrcnn_snclr_1x_coco.py'), Config.fromfile(parent)
    init_cfg = ours.model.backbone.pop('init_cfg')
    assert (init_cfg.type, init_cfg.prefix) == ('Pretrained', 'backbone.')
    parent.model.backbone.pop('init_cfg')
    assert ours.model.to_dict() == parent.model.to_dict()
    assert ours.optim_wrapper.to_dict() == parent.optim_wrapper.to_dict()
    assert ours.train_dataloader.batch_size * 8 == 16
    assert ours.train_cfg.max_epochs == 12


@pytest.mark.parametrize(('name', 'base_rate'), [('r50', 0.1), ('vit-s', 3), ('vit-b', 3)])
def test_linear_evaluation_is_the_papers_protocol(name, base_rate):
    config = load(f'linear_{name}_in1k.py')
    batch = config.train_dataloader.batch_size * 8
    assert batch == config.auto_scale_lr.base_batch_size == 4096
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.9, 0)
    assert optimizer.lr == pytest.approx(base_rate * batch / 256)
    assert config.train_cfg.max_epochs == config.param_scheduler[0].T_max == 90
    pretrained = config.model.backbone.init_cfg
    pretraining = load(pretrained.checkpoint.split('/')[1] + '.py')
    assert pretrained.checkpoint.endswith(f'epoch_{pretraining.train_cfg.max_epochs}.pth')
    assert pretraining.model.backbone.get('arch') == config.model.backbone.get('arch')


@pytest.mark.parametrize('backbone', ['r50', 'vit-s'])
@pytest.mark.parametrize('percent', [1, 10])
def test_fine_tuning_moves_the_backbone_slowly_and_the_classifier_fast(backbone, percent):
    config = load(f'semisup_{backbone}_{percent}pct.py')
    assert config.train_dataloader.batch_size * 8 == 256
    assert config.train_dataloader.dataset.ann_file == f'meta/train_{percent}percent.txt'
    assert config.train_cfg.max_epochs == config.param_scheduler[0].T_max == 20
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model).train()
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.backbone.modules() if isinstance(m, _BatchNorm))
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    rates = {id(p): group['lr'] for group in groups for p in group['params']}
    for name, parameter in model.named_parameters():
        expected = 0.5 if name.startswith('head.') else 0.002
        assert rates[id(parameter)] == pytest.approx(expected), name


@pytest.mark.parametrize('row', ['snclr', 'supervised', 'random'])
@pytest.mark.parametrize('setting', ['', '_syncbn'])
def test_detection_rows_differ_as_they_say(row, setting):
    pytest.importorskip('mmdet')
    config = load(f'maskrcnn_{row}{setting}_1x_coco.py')
    backbone = config.model.backbone
    assert config.train_cfg.max_epochs == 12
    start = backbone.init_cfg and backbone.init_cfg.checkpoint
    expected = {'snclr': 'work_dirs/snclr_r50_800e/epoch_800.pth', 'random': None}
    assert start == expected.get(row, 'torchvision://resnet50')
    frozen = not setting and row != 'random'
    assert (backbone.frozen_stages, backbone.norm_eval) == ((1, True) if frozen else (-1, False))
    assert (backbone.norm_cfg.type == 'SyncBN') == (not frozen)
    assert ('norm_cfg' in config.model.neck) == bool(setting)
    assert ('norm_cfg' in config.model.roi_head.mask_head) == bool(setting)
    assert load('maskrcnn_snclr_2x_coco.py').train_cfg.max_epochs == 24
