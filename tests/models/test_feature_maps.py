"""What detectors take from backbones: maps at the strides that they have."""

import copy

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmpretrain.models.backbones import VisionTransformer
from torch import nn

from mmsnclr.models import SimpleFeaturePyramid, TIMMFeatures, ViTFeatures
from mmsnclr.models.feature_maps import fitting_neck, follow_backbone, probe

ARCH = dict(embed_dims=48, num_layers=4, num_heads=4, feedforward_channels=96)
VIT = dict(arch=ARCH, img_size=32, patch_size=8)


@pytest.fixture(scope='module')
def plain():
    """mmpretrain's ViT with weights as of a training."""
    torch.manual_seed(0)
    plain = VisionTransformer(out_type='featmap', **VIT)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    plain.eval()
    return plain


def windowed(plain, **settings):
    network = ViTFeatures(**VIT, **settings)
    network.load_state_dict(plain.state_dict())
    network.eval()  # returns nothing
    return network


@torch.no_grad()
@pytest.mark.parametrize('window', [None, 9])
@pytest.mark.parametrize('size', [(32, 32), (40, 72)])
def test_where_windows_hold_the_image_the_map_is_mmpretrains(plain, window, size):
    images = torch.randn(2, 3, *size)
    (expected,), (actual,) = plain(images), windowed(plain, window=window)(images)
    assert actual.shape == (2, 48, size[0] // 8, size[1] // 8)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_window_attends_to_itself_and_the_class_token(plain):
    network = windowed(plain, window=2, global_layers=1)
    assert network.global_layers == [3]
    tokens, layer = torch.randn(2, 1 + 4 * 6, 48), network.layers[0]
    actual = network._attend_in_windows(layer.attn, tokens, (4, 6))
    patches, firsts = tokens[:, 1:].unflatten(1, (4, 6)), []
    for top in (0, 2):
        for left in (0, 2, 4):
            window = patches[:, top : top + 2, left : left + 2].flatten(1, 2)
            expected = layer.attn(torch.cat([tokens[:, :1], window], dim=1))
            there = actual[:, 1:].unflatten(1, (4, 6))[:, top : top + 2, left : left + 2]
            torch.testing.assert_close(there.flatten(1, 2), expected[:, 1:])
            firsts.append(expected[:, 0])
    torch.testing.assert_close(actual[:, 0], torch.stack(firsts).mean(dim=0))
    # Where windows do not divide the map, zeros are beyond it.
    padded = torch.cat([patches[:, :, :5], torch.zeros(2, 4, 1, 48)], dim=2).flatten(1, 2)
    padded = network._attend_in_windows(layer.attn, torch.cat([tokens[:, :1], padded], 1), (4, 6))
    short = torch.cat([tokens[:, :1], patches[:, :, :5].flatten(1, 2)], dim=1)
    short = network._attend_in_windows(layer.attn, short, (4, 5))
    expected = padded[:, 1:].unflatten(1, (4, 6))[:, :, :5].flatten(1, 2)
    torch.testing.assert_close(short[:, 1:], expected)


def test_the_pyramid_of_one_map_has_vitdets_levels():
    neck, strides = fitting_neck([48], [16], 32)
    assert strides == [4, 8, 16, 32, 64]
    pyramid = SimpleFeaturePyramid(**{k: v for k, v in neck.items() if k != 'type'})
    levels = pyramid((torch.randn(2, 48, 6, 4),))
    assert [level.shape for level in levels] == [
        (2, 32, -(-96 // stride), 64 // stride) for stride in strides
    ]
    kinds = [[type(step).__name__ for step in level][:-4] for level in pyramid.levels]
    up, norm = 'ConvTranspose2d', 'LayerNorm2d'
    assert kinds == [[up, norm, 'GELU', up], [up], [], ['MaxPool2d']]
    sum(level.sum() for level in levels).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())
    for patch, expected in ((8, [4, 8, 16, 32, 64]), (14, [3.5, 7, 14, 28, 56])):
        assert fitting_neck([48], [patch])[1] == expected


@pytest.mark.parametrize(
    ('name', 'settings', 'channels', 'strides', 'divisor'),
    [
        ('test_efficientnet', {}, [24, 32, 48, 64], [4, 8, 16, 32], 32),
        ('resnet10t', dict(output_stride=16), [64, 128, 512], [4, 8, 16], 32),
        ('vit_tiny_patch16_224', dict(patch_size=14, depth=2), [192], [14], 56),
    ],
)
def test_levels_are_those_that_a_timm_model_has(name, settings, channels, strides, divisor):
    network = TIMMFeatures(model_name=name, **settings)
    assert network.divisor == divisor
    assert probe(network, network.divisor) == (channels, strides, [])
    images = torch.randn(1, 3, divisor, 2 * divisor)
    expected = [(1, c, divisor // s, 2 * divisor // s) for c, s in zip(channels, strides)]
    assert [x.shape for x in network(images)] == expected


@pytest.mark.parametrize('name', ['mixer_s16_224', 'levit_128s'])
def test_a_timm_model_without_maps_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"model_name='{name}': timm has no feature maps of it"):
        TIMMFeatures(model_name=name)


def test_the_neck_of_the_config_for_timm_follows_the_model():
    pytest.importorskip('mmdet')
    model = Config.fromfile(ROOT / 'configs/maskrcnn_snclr_timm_1x_coco.py').model
    before = copy.deepcopy(model)
    follow_backbone(model)
    assert model == before  # the config's own model
    model.backbone.model_name = 'test_vit'
    follow_backbone(model)
    assert (model.neck.type, model.neck.in_channels) == ('SimpleFeaturePyramid', 64)
    model.backbone.update(model_name='resnet10t', output_stride=16)
    follow_backbone(model)
    assert (model.neck.type, model.neck.in_channels) == ('FPN', [64, 128, 512])
    assert model.neck.num_outs == 4 and model.neck.out_channels == 256
    assert model.rpn_head.anchor_generator.strides == [4, 8, 16, 32]
    assert model.roi_head.mask_roi_extractor.featmap_strides == [4, 8, 16]


@pytest.mark.parametrize('backbone', ['mmpretrain', 'timm'])
def test_each_layer_of_the_backbone_learns_at_a_share_of_the_next_ones_rate(backbone):
    from mmengine.optim import build_optim_wrapper

    model = nn.Module()
    model.backbone = ViTFeatures(**VIT) if backbone == 'mmpretrain' else TIMMFeatures('test_vit')
    model.neck = SimpleFeaturePyramid(48, 32)
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
            constructor='BackboneLayerDecay',
            paramwise_cfg=dict(layer_decay_rate=0.5, norm_decay_mult=0.0),
        ),
    )
    groups = {id(p): group for group in wrapper.param_groups for p in group['params']}
    rates = {name: groups[id(p)]['lr'] for name, p in model.named_parameters()}
    layers = len(
        model.backbone.layers if backbone == 'mmpretrain' else model.backbone.timm_model.blocks
    )
    parts = {'neck.': 1.0}
    for layer in range(layers):
        block = (
            f'backbone.layers.{layer}.'
            if backbone == 'mmpretrain'
            else f'timm_model.blocks.{layer}.'
        )
        parts[block] = 0.5 ** (layers - layer)
    parts['patch_embed.'] = 0.5 ** (layers + 1)
    for part, rate in parts.items():
        found = {rates[name] for name in rates if part in name}
        assert found == {rate}, part
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert all(groups[id(norm.weight)]['weight_decay'] == 0 for norm in norms)
