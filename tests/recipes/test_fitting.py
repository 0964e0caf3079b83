"""The settings that follow from the number of images."""

import copy

import pytest
import timm
import torch
from helpers import ROOT
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmsnclr.datasets.views import VIEW_KINDS
from mmsnclr.recipes.pretraining import fit_to_epochs, fit_to_images, load_recipe, patch_edge


def test_at_imagenets_size_the_settings_are_the_recipes():
    recipe = Config.fromfile(ROOT / 'configs' / 'snclr_r50_1xb256_200e.py')
    cfg = load_recipe('r50')
    fit_to_images(cfg, 1_281_167, 400, batch=256)
    fit_to_epochs(cfg, 1_281_167, step_seconds=0.5)
    assert cfg.model.queue.length == pytest.approx(recipe.model.queue.length, rel=0.01)
    assert cfg.model.head.neighbors == recipe.model.head.neighbors
    assert (cfg.model.head.loss.form, recipe.model.head.loss.get('form')) == ('sum_log', None)
    assert cfg.model.momentum_coefficient == pytest.approx(recipe.model.momentum_coefficient)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(recipe.optim_wrapper.optimizer.lr)
    assert cfg.train_cfg.max_epochs == recipe.train_cfg.max_epochs
    assert cfg.custom_hooks[0].warmup_epochs == recipe.custom_hooks[0].warmup_epochs
    for ours, theirs in zip(cfg.param_scheduler, recipe.param_scheduler):
        assert ours.end == theirs.end


def test_a_model_that_a_user_adds_to_timm_has_no_size_of_its_own():
    def added_by_a_user(pretrained=False, **kwargs):
        raise NotImplementedError

    timm.models.register_model(added_by_a_user)
    cfg = load_recipe('added_by_a_user')
    fit_to_images(cfg, 1000, 64, size=64)
    assert 'img_size' not in cfg.model.backbone


@pytest.mark.parametrize(('patch', 'size'), [(14, 126), (16, 128)])
def test_views_are_of_whole_patches(patch, size):
    network = timm.create_model('test_vit', patch_size=patch, img_size=2 * patch)
    settings = fit_to_images(load_recipe('test_vit'), 1000, 130, patch=patch_edge(network))
    assert {setting.name: setting.value for setting in settings}['size'] == str(size)


@pytest.fixture(scope='module')
def recipe():
    return load_recipe('r50')


@pytest.mark.parametrize('images', [32, 33, 100, 1000, 5000, 100_000])
@pytest.mark.parametrize('epochs', [None, 1, 2, 15])
def test_settings_are_usable_at_every_size(recipe, images, epochs):
    cfg = copy.deepcopy(recipe)
    fit_to_images(cfg, images, 300)
    fit_to_epochs(cfg, images, epochs)
    length, batch = cfg.model.queue.length, cfg.train_dataloader.batch_size
    assert cfg.model.head.neighbors < length <= images and 4 * batch <= images
    max_epochs, m = cfg.train_cfg.max_epochs, cfg.custom_hooks[0].warmup_epochs
    assert 0 <= m < max_epochs and cfg.param_scheduler[-1].T_max >= 1
    assert 0.9 < cfg.model.momentum_coefficient < 1
    steps = images // batch
    assert 1 <= cfg.default_hooks.logger.interval <= steps
    assert 1 <= cfg.default_hooks.checkpoint.interval <= max_epochs


@pytest.mark.parametrize(
    ('chosen', 'colored', 'kind', 'reason'),
    [
        (None, None, 'strong', "as BYOL's, for photographs; 1,000 of the images have colours"),
        (None, 10, 'strong', "as BYOL's, for photographs; 10 of the images have colours"),
        (None, 9, 'gray', 'nothing solarised; 9 of the images have colours'),
        ('strong', 0, 'strong', 'as you chose'),
        ('weak', 1000, 'weak', 'as you chose'),
    ],
)
def test_views_follow_from_the_images_colours(recipe, chosen, colored, kind, reason):
    cfg = copy.deepcopy(recipe)
    settings = fit_to_images(cfg, 1000, 300, views=chosen, colored=colored)
    (setting,) = (setting for setting in settings if setting.name == 'views')
    assert setting.value == kind and reason in setting.reason
    first, second = cfg.train_dataloader.dataset.pipeline[0].views
    plain = dict(size=224, blur_sigma=(0.1, 2.0))
    assert first == dict(plain, blur_prob=1.0) | VIEW_KINDS[kind]
    assert second == dict(plain, blur_prob=0.1, solarize_prob=0.2) | VIEW_KINDS[kind]


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'resnet18'])
def test_a_timm_model_learns_at_the_size_of_the_images(name):
    cfg = load_recipe(name)
    fit_to_images(cfg, 100, 64)
    features = MODELS.build(cfg.model.backbone)(torch.zeros(1, 3, 64, 64))
    assert features[-1].shape == (1, timm.create_model(name).num_features)
