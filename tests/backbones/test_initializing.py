"""Weights of other libraries and runs as initialisation."""

import os
import pickle

import pytest
import timm
import torch
import torchvision
from helpers import ROOT
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmsnclr.backbones import initialize_backbone
from mmsnclr.checkpoints import Stored
from mmsnclr.recipes.pretraining import fit_to_images, load_recipe


@pytest.mark.parametrize('prefix', ['', 'module.encoder.'])
@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_a_resnet_of_another_library_becomes_the_initialisation(tmp_path, library, prefix):
    create = torchvision.models.resnet18 if library == 'torchvision' else timm.create_model
    source = create(*(['resnet18'] if library == 'timm' else [])).eval()
    state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save(dict(state_dict=state, epoch=3), tmp_path / 'r18.pth')
    backbone = MODELS.build(dict(type='ResNet', depth=18))
    initialize_backbone(backbone, Stored.read(tmp_path / 'r18.pth'))
    backbone.eval()
    source.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone(images)[-1].mean((2, 3)), source(images))


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_a_vit_of_another_library_becomes_the_initialisation(tmp_path, library):
    sizes = dict(num_heads=6, image_size=32, patch_size=16, num_layers=12)
    if library == 'timm':
        source = timm.create_model('vit_small_patch16_224', img_size=32, num_classes=0)
    else:
        source = torchvision.models.VisionTransformer(hidden_dim=384, mlp_dim=1536, **sizes)
        source.heads = torch.nn.Identity()
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    cfg = load_recipe('vit-s')
    fit_to_images(cfg, 100, 32)
    backbone = MODELS.build(cfg.model.backbone)
    initialize_backbone(backbone, Stored.read(tmp_path / 'vit.pth'))
    images = torch.randn(2, 3, 32, 32)
    backbone.eval(), source.eval()
    torch.testing.assert_close(backbone(images)[-1], source(images), rtol=1e-4, atol=1e-4)


def test_of_several_backbones_none_is_picked(tmp_path):
    backbone = MODELS.build(dict(type='ResNet', depth=18))
    two = {
        f'{net}.{key}': value + number
        for number, net in enumerate(('online', 'target'))
        for key, value in backbone.state_dict().items()
    }
    torch.save(two, tmp_path / 'two.pth')
    with pytest.raises(ValueError, match=r"several backbones.*\['online\.', 'target\.'\]"):
        initialize_backbone(backbone, Stored.read(tmp_path / 'two.pth'))
    same = {key.replace('target', 'copy'): v for key, v in two.items() if key[0] == 't'}
    torch.save(same | {k: v for k, v in two.items() if k[0] == 't'}, tmp_path / 'same.pth')
    initialize_backbone(backbone, Stored.read(tmp_path / 'same.pth'))
    assert backbone.conv1.weight.equal(two['target.conv1.weight'])


def test_positions_of_another_size_are_resampled(tmp_path):
    source = timm.create_model('vit_tiny_patch16_224', img_size=64)
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    cfg = dict(type='TIMMRepresentation', model_name='vit_tiny_patch16_224', img_size=32)
    backbone = MODELS.build(cfg)
    initialize_backbone(backbone, Stored.read(tmp_path / 'vit.pth'))
    expected = timm.layers.resample_abs_pos_embed(source.pos_embed, [2, 2])
    torch.testing.assert_close(backbone.timm_model.pos_embed, expected)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'r18.pth')
    backbone = MODELS.build(dict(type='ResNet', depth=50))
    message = r'fills \d+ of the \d+ weights .*layer1\.0\.conv1\.weight.*same architecture'
    with pytest.raises(ValueError, match=message):
        initialize_backbone(backbone, Stored.read(tmp_path / 'r18.pth'))


def test_a_vit_with_other_heads_is_refused(tmp_path):
    backbone = MODELS.build(load_recipe('vit-s').model.backbone)
    released = Config.fromfile(ROOT / 'configs' / 'snclr_vit-s_300e_released.py')
    checkpoint = dict(state_dict=backbone.state_dict(), meta=dict(cfg=released.pretty_text))
    torch.save(checkpoint, tmp_path / 'released.pth')
    with pytest.raises(ValueError, match='a ViT with 12 heads, the backbone has 6'):
        initialize_backbone(backbone, Stored.read(tmp_path / 'released.pth'))


def test_heads_of_an_origin_are_compared_without_its_config(tmp_path):
    backbone = MODELS.build(load_recipe('vit-s').model.backbone)
    weights = {f'base_encoder.{key}': value for key, value in backbone.state_dict().items()}
    torch.save(weights, tmp_path / 'moco.pth')
    with pytest.raises(ValueError, match='a ViT with 12 heads, the backbone has 6'):
        initialize_backbone(backbone, Stored.read(tmp_path / 'moco.pth'))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ('harm',)


def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torchvision.models.resnet18().state_dict()
    for protocol in (dict(), dict(_use_new_zipfile_serialization=False)):
        torch.save(dict(model=state, args=Harmful()), 'r18.pth', **protocol)
        with pytest.raises(ValueError, match=r'r18\.pth holds a posix\.mkdir'):
            initialize_backbone(MODELS.build(dict(type='ResNet', depth=18)), Stored.read('r18.pth'))
    (tmp_path / 'no.pth').write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=r'no\.pth'):
        initialize_backbone(MODELS.build(dict(type='ResNet', depth=18)), Stored.read('no.pth'))
    assert not (tmp_path / 'harm').exists()
