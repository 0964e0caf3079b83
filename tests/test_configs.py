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
    # As the Runner does, from the root registries.
    assert sum(p.numel() for p in ROOT_MODELS.build(config.model).parameters()) > 10_000
    for hook in config.get('custom_hooks', ()):
        assert HOOKS.build(hook) is not None
    for transform in config.train_dataloader.dataset.pipeline:
        assert ROOT_TRANSFORMS.build(transform) is not None


def test_r50_is_the_papers_recipe():
    config = load('snclr_r50_800e.py')
    model = config.model
    assert (model.head.neighbors, model.queue.length, model.queue.dim) == (30, 128_000, 256)
    assert model.momentum_coefficient == 0.99
    assert config.train_dataloader.batch_size * 32 == 4096 == config.auto_scale_lr.base_batch_size
    assert config.train_cfg.max_epochs == 800


def test_r50_learning_rate_warms_up_and_falls_to_zero():
    config = load('snclr_r50_800e.py')
    steps = 1_281_167 // 4096 + 1
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=config.optim_wrapper.optimizer.lr)
    schedulers = []
    for scheduler in copy.deepcopy(config.param_scheduler):
        kind = PARAM_SCHEDULERS.get(scheduler.pop('type'))
        scheduler.pop('convert_to_iter_based')
        schedulers.append(
            kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=steps, **scheduler)
        )
    rates = []
    for _ in range(800 * steps):
        rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == pytest.approx(0.3 * 4096 / 256, rel=1e-4)
    assert rates.index(max(rates)) == pytest.approx(10 * steps, abs=2)
    assert rates[405 * steps] == pytest.approx(2.4, rel=1e-2)
    assert optimizer.param_groups[0]['lr'] < 1e-6


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
