"""Backbones of every kind fill a detector's completely, and train."""

import copy

import pytest
import torch
from helpers import pretrained_backbone
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from mmsnclr.api.detect import detect
from mmsnclr.backbones import check_pretrained, read_backbone
from mmsnclr.checkpoints import Stored
from mmsnclr.recipes.detector_backbones import KINDS, detector_backbone, read_starts

ARCH = dict(embed_dims=48, num_layers=4, num_heads=4, feedforward_channels=96)
SWIN = dict(embed_dim=16, depths=(1, 1, 1, 2), num_heads=(1, 2, 2, 4), img_size=64)
TIMM = {
    'test_convnext': {},
    'swin_tiny_patch4_window7_224': SWIN,
    'test_efficientnet': {},
    'regnety_002': {},
    'mobilenetv3_small_050': {},
    'resnet10t': {},
    'test_byobnet': {},
    'test_mambaout': {},
    'edgenext_xx_small': {},
    'pvt_v2_b0': {},
    'test_vit': dict(img_size=64),
    'vit_tiny_patch16_224': dict(img_size=64, depth=2, embed_dim=48),
}
BACKBONES = {
    'VisionTransformer': dict(type='VisionTransformer', arch=ARCH, img_size=64, patch_size=16),
    'MoCoV3ViT': dict(
        type='MoCoV3ViT', arch=ARCH, img_size=64, patch_size=16, stop_grad_conv1=True
    ),
    **{
        name: dict(type='TIMMRepresentation', model_name=name, **settings)
        for name, settings in TIMM.items()
    },
}


class Network(torch.nn.Module):
    """A backbone and its neck, as a detector builds them."""

    def __init__(self, start):
        from mmdet.registry import MODELS as MMDET_MODELS

        super().__init__()
        with DefaultScope.overwrite_default_scope('mmdet'):
            self.backbone = MMDET_MODELS.build(start.config | dict(init_cfg=start.init_cfg))
            self.neck = MMDET_MODELS.build(start.neck)


@pytest.mark.parametrize('name', BACKBONES)
def test_it_is_filled_completely_and_all_of_it_learns(tmp_path, name):
    pytest.importorskip('mmdet')
    path = pretrained_backbone(tmp_path / 'epoch_1.pth', BACKBONES[name])
    stored = Stored.read(path)
    start = detector_backbone(read_backbone(stored), path)
    network = Network(start)
    check_pretrained(network)
    network.backbone.init_weights()
    filled = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    assert all(stored.weights[f'backbone.{key}'].equal(value) for key, value in filled.items())

    wrapper = build_optim_wrapper(network, dict(start.optim_wrapper, type='OptimWrapper'))
    for size in ((64, 64), (96, 64)):  # not that of the pretraining
        levels = network.neck(network.backbone(torch.randn(2, 3, *size)))
        for level, stride in zip(levels, start.strides, strict=True):
            assert level.shape[2:] == tuple(-(-edge // stride) for edge in size)
        wrapper.zero_grad()
        sum(level.square().mean() for level in levels).backward()
        unused = [
            key for key, p in network.named_parameters() if p.requires_grad and p.grad is None
        ]
        assert not unused
        wrapper.step()
    learns = {key for key, p in network.backbone.named_parameters() if p.requires_grad}
    moved = {key for key in learns if not network.backbone.get_parameter(key).equal(filled[key])}
    assert len(moved) > 0.9 * len(learns)  # some gradients are 0 at first, behind small scales


@pytest.mark.slow
@pytest.mark.parametrize('name', BACKBONES)
def test_a_detector_of_it_is_trained_and_measured(scenes, tmp_path, name):
    pytest.importorskip('mmdet')
    detection = detect(
        scenes / 'train.json',
        scenes / 'train',
        pretrained_backbone(tmp_path / 'epoch_1.pth', BACKBONES[name]),
        tmp_path / 'out',
        size=64,
        iterations=2,
        batch=2,
        workers=0,
    )
    assert all(0 <= kind.ap <= 100 for kind in detection.results['pretrained'].values())


def test_random_layers_all_learn_at_the_full_rate(tmp_path):
    vit = pretrained_backbone(tmp_path / 'epoch_1.pth', BACKBONES['VisionTransformer'])
    starts = read_starts(dict(pretrained=str(vit), compared='random'), tmp_path)
    pretrained, random = (starts[name].backbone.optim_wrapper for name in starts)
    assert 'layer_decay_rate' in pretrained['paramwise_cfg']
    assert set(random) == {'optimizer', 'paramwise_cfg'}
    assert random['paramwise_cfg'] == dict(norm_decay_mult=0.0)
    assert random['optimizer'] == pretrained['optimizer']


def test_each_kind_has_a_backbone():
    kinds = {kind.name for kind in KINDS}
    found = set()
    for cfg in (
        dict(type='ResNet', depth=18),
        dict(type='TIMMRepresentation', model_name='resnet18'),
        *(BACKBONES[name] for name in ('MoCoV3ViT', 'test_vit', 'test_convnext')),
    ):
        network = MODELS.build(copy.deepcopy(cfg))
        found.add(next(kind.name for kind in KINDS if kind.has(network, cfg)))
    assert found == kinds
