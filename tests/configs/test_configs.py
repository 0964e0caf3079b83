"""Every shipped config builds, and is the recipe that it says it is."""

import re
from functools import cache

import pytest
import torch
from helpers import ROOT, images
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, init_default_scope
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmpretrain.registry import MODELS
from paper_recipes import RECIPES, datasets, load
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnclr.backbones import check_pretrained

DEMO = [f'demo/{path.name}' for path in (ROOT / 'configs/demo').glob('*.py')]
CONFIGS = sorted([*RECIPES, *DEMO])
FEW = CONFIGS[::10]


def transforms(loader):
    """The built steps of all pipelines of a data loader's config."""
    found = [dataset.pipeline for _, dataset in datasets('dataset', loader.dataset)]
    return [ROOT_TRANSFORMS.build(step) for pipeline in found for step in pipeline]


@pytest.fixture
def parent(tmp_path):
    """Reads a parent library's config."""

    def read(name):
        path = tmp_path / 'parent.py'
        path.write_text(f"_base_ = '{name}'\n")
        return Config.fromfile(path)

    return read


@cache
def parameters(text):
    """How many a model has that builds; many configs have the same, trained otherwise."""
    model = ROOT_MODELS.build(Config.fromstring(text, '.py').model)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('name', CONFIGS)
def test_the_model_and_the_pipelines_build(name):
    config = load(name)
    init_default_scope(config.default_scope)
    assert parameters(Config(dict(model=config.model)).pretty_text) > 10_000
    for loader in {'train_dataloader', 'val_dataloader'} & config.keys():
        assert transforms(config[loader])
    assert config.custom_imports.imports == ['mmsnclr']


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in CONFIGS]
)
def test_configs_can_be_inherited_from_other_projects(tmp_path, name):
    load(name)
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmsnclr::_base_/../{name}'\n")
    config = Config.fromfile(path)
    init_default_scope(config.default_scope)
    for hook in config.get('custom_hooks', ()):
        hook.pop('priority', None)
        HOOKS.build(hook)
    assert transforms(config.train_dataloader)


@pytest.mark.parametrize('name', [n for n in RECIPES if n.startswith(('snclr_', 'ablations/'))])
def test_models_are_the_recipes(name):
    model = load(name).model
    _, change = re.split(r'_\d+e_?', name.removesuffix('.py'))
    expected = dict(
        k=30, length=128_000, t=0.2, form='log_sum', where='both', positiveness='attention'
    )
    expected |= {
        'uniform': dict(positiveness='uniform'),
        'positives': dict(where='positives'),
        'negatives': dict(where='negatives'),
        'sum-log': dict(form='sum_log'),
        'released': dict(form='sum_log', t=1.0 if 'r50' in name else 0.2),
        **{f'k{k}': dict(k=k) for k in (10, 20, 40, 50)},
        **{f'length-{n}k': dict(length=1000 * n) for n in (16, 32, 64)},
        **{f't-{t}': dict(t=t) for t in (0.1, 0.2, 1.0)},
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
    batch = RECIPES[name]['batch']
    assert model.momentum_coefficient == pytest.approx(0.99 ** (batch / 4096))
    hooks = load(name).custom_hooks
    assert [hook.type for hook in hooks] == ['NeighborQueueHook', 'ViewSeedHook']
    warmup = {'released': 0, 'no-neighbors': 301}.get(change, RECIPES[name]['warmup'])
    assert hooks[0].warmup_epochs == warmup


def crops_as_the_released_code(config):
    views = ROOT_TRANSFORMS.build(config.train_dataloader.dataset.pipeline[0])
    return views.interpolation == 'bilinear' and config.train_dataloader.drop_last


def test_the_released_resnet_is_what_the_released_code_defaults_to():
    config = load('snclr_r50_800e_released.py')
    assert crops_as_the_released_code(config)
    assert config.model.queue.sync is False and 'end_momentum_coefficient' not in config.model
    built = MODELS.build(config.model)
    assert built.head.loss_module.loss_weight == 2 * 1.0
    norms = [m for m in built.neck.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) == 2 and norms[-1].weight is None
    assert sum(isinstance(m, _BatchNorm) for m in built.head.predictor.modules()) == 1


@pytest.mark.parametrize('name', RECIPES)
def test_the_plain_command_is_the_fast_one(name):
    config = load(name)
    fast = config.default_scope != 'mmdet'
    precision = 'MixedPrecisionOptimWrapper' if fast else 'OptimWrapper'
    assert (config.optim_wrapper.type, config.env_cfg.cudnn_benchmark) == (precision, fast)
    layout = config.model.get('channels_last'), config.get('channels_last')
    if fast:
        assert layout == ((True, None) if 'queue' in config.model else (None, True))


def test_the_released_variant_is_the_released_code():
    config = load('snclr_vit-s_300e_released.py')
    assert crops_as_the_released_code(config)
    model = config.model
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
    config = load(f'snclr_vit-{size}_300e.py')
    backbone = MODELS.build(config.model).backbone
    assert (backbone.embed_dims, len(backbone.layers)) == (width, 12)
    assert backbone.layers[0].attn.num_heads == heads
    assert backbone(torch.zeros(1, 3, 224, 224))[0].shape == (1, width)
    assert not backbone.patch_embed.projection.weight.requires_grad
    config.merge_from_dict({'model.frozen_patch_embed': False})
    backbone = MODELS.build(config.model).backbone
    assert backbone.patch_embed.projection.weight.requires_grad


def test_any_timm_model_by_one_option():
    config = load('snclr_timm_300e.py')
    config.model.backbone.model_name = 'resnet10t'
    model = MODELS.build(config.model)
    assert model.neck(model.backbone(torch.zeros(2, 3, 64, 64)))[0].shape == (2, 256)


def test_lars_takes_plain_steps_for_norms_and_biases_and_adapts_the_rest():
    config = load('snclr_r50_800e.py')
    model = MODELS.build(config.model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    excluded = {
        f'{path}.{name}'
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if isinstance(module, _BatchNorm) or name == 'bias'
    }
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
            assert plain == (name in excluded), name
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


def test_mask_rcnn_is_mmdets_but_for_the_backbones_weights(parent):
    ours = load('maskrcnn_snclr_1x_coco.py')
    parent = parent('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    init_cfg = ours.model.backbone.pop('init_cfg')
    assert (init_cfg.type, init_cfg.prefix) == ('Pretrained', 'backbone.')
    parent.model.backbone.pop('init_cfg')
    assert ours.model.to_dict() == parent.model.to_dict()
    assert ours.optim_wrapper.to_dict() == parent.optim_wrapper.to_dict()
    assert ours.train_dataloader.batch_size * 8 == 16
    assert ours.train_cfg.max_epochs == 12


def without_scopes(value):
    """Settings without the names of the libraries that build them."""
    if isinstance(value, dict):
        return {k: without_scopes(v) for k, v in value.items() if k != '_scope_'}
    return [without_scopes(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [('syncbn_ms-1x', 'fpn_ms-1x'), ('syncbn_ms-2x', 'fpn_ms-1x'), ('c4_ms-1x', 'c4_ms-1x')],
)
def test_multi_scale_detectors_are_mmpretrains_benchmarks(ours, theirs, parent):
    ours = load(f'maskrcnn_snclr_{ours}_coco.py').to_dict()
    sep = '-' if theirs.startswith('c4') else '_'
    theirs = parent(f'mmpretrain::byol/benchmarks/mask-rcnn_r50{sep}{theirs}_coco.py').to_dict()
    for config in (ours, theirs):
        config['model']['backbone'].pop('init_cfg')
        config['model']['roi_head'].get('shared_head', {}).pop('init_cfg', None)
        config['model']['roi_head']['bbox_head'].pop('conv_out_channels', None)  # its default
        config['train_dataloader']['dataset']['pipeline'][0].pop('backend_args', None)
    for part in ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'optim_wrapper'):
        assert without_scopes(ours[part]) == without_scopes(theirs[part])


def test_the_stage_in_a_c4_head_starts_from_the_checkpoint_and_its_norm_from_one(tmp_path):
    pytest.importorskip('mmdet')
    config = load('fasterrcnn_snclr_c4_24k_voc0712.py')
    resnet = MODELS.build(load('snclr_r50_800e.py').model.backbone)
    stored = {f'backbone.{key}': value for key, value in resnet.state_dict().items()}
    path = tmp_path / 'epoch_800.pth'
    torch.save(dict(state_dict=stored), path)
    config.model.backbone.init_cfg.checkpoint = str(path)
    config.model.roi_head.shared_head.init_cfg[0].override.checkpoint = str(path)
    init_default_scope(config.default_scope)
    model = ROOT_MODELS.build(config.model)
    check_pretrained(model)
    model.init_weights()
    trained = dict(model.backbone.named_parameters('backbone'))
    trained |= dict(model.roi_head.shared_head.layer4.named_parameters('backbone.layer4'))
    assert trained.keys() == {f'backbone.{name}' for name, _ in resnet.named_parameters()}
    assert all(torch.equal(value, stored[name]) for name, value in trained.items())
    norm = model.roi_head.shared_head.norm
    assert torch.equal(norm.weight, torch.ones(2048)) and not norm.bias.any()
    assert all(p.requires_grad for p in model.parameters())


def test_cityscapes_starts_from_no_detector():
    config = load('maskrcnn_snclr_syncbn_1x_cityscapes.py')
    assert config.load_from is None
    assert config.model.backbone.init_cfg.checkpoint == 'work_dirs/snclr_r50_800e/epoch_800.pth'


@pytest.mark.parametrize(
    ('name', 'base_rate'),
    [('r50', 0.1), ('vit-s', 3), ('vit-b', 3), ('vit-s_released', 3), ('timm', 3)],
)
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
    for key in ('arch', 'model_name'):
        assert pretraining.model.backbone.get(key) == config.model.backbone.get(key)


@pytest.mark.parametrize('name', [n for n in RECIPES if n.startswith('semisup')])
def test_fine_tuning_moves_the_backbone_slowly_and_the_classifier_fast(name):
    config = load(name)
    percent = name.split('_')[-1].removesuffix('pct.py')
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


def test_swav_runs_on_32_gpus_as_at_a_batch_of_4096():
    config = load('baselines/swav_r50_200e.py')
    hook = config.custom_hooks[0]
    assert hook.batch_size == config.train_dataloader.batch_size == 128
    assert hook.queue_length == 0
    assert hook.frozen_layers_cfg.prototypes == -(-1_281_167 // 4096)


@pytest.mark.parametrize('name', [n for n in RECIPES if n.startswith('baselines/')])
def test_baselines_have_snclrs_network_data_and_optimiser(name):
    ours, theirs = load('snclr_r50_200e.py'), load(name)
    assert theirs.model.backbone == ours.model.backbone
    data = [dict(config.train_dataloader.dataset, _scope_=None) for config in (ours, theirs)]
    for setting in ('batch_size', 'num_workers', 'persistent_workers', 'pin_memory'):
        assert theirs.train_dataloader[setting] == ours.train_dataloader[setting]
    assert data[0] == data[1]
    assert theirs.optim_wrapper.optimizer == ours.optim_wrapper.optimizer
    assert theirs.param_scheduler == ours.param_scheduler
