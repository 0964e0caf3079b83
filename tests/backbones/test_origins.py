"""Backbones as others' code saves them: each kind of file gives the network that was saved."""

from argparse import Namespace

import pytest
import timm
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from timm.models import register_model
from timm.models.vision_transformer import _create_vision_transformer

from mmsnclr.api import export, import_checkpoint
from mmsnclr.backbones import initialize_backbone, read_backbone
from mmsnclr.checkpoints import Stored
from mmsnclr.models.backbone import pooled

TINY = dict(img_size=32, patch_size=8, embed_dim=192, depth=2, num_heads=3)


@register_model
def tiny_dinov2(pretrained=False, **kwargs):
    settings = TINY | dict(init_values=1e-5, reg_tokens=4, no_embed_class=True)
    return _create_vision_transformer('tiny_dinov2', **settings | kwargs)


@register_model
def tiny_ijepa(pretrained=False, **kwargs):
    settings = TINY | dict(class_token=False, global_pool='avg', fc_norm=False)
    return _create_vision_transformer('tiny_ijepa', **settings | kwargs)


def stirred(model):
    """The model with weights as of a training."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.add_(torch.randn_like(value) * (0.5 if value.ndim == 1 else 0.02))
    model.eval()  # returns nothing in mmdet
    return model


@pytest.fixture(scope='module')
def resnet():
    torch.manual_seed(0)
    return stirred(torchvision.models.resnet18())


@pytest.fixture(scope='module')
def vit():
    torch.manual_seed(0)
    return stirred(timm.create_model('vit_tiny_patch16_224', **TINY))


def under(prefix, model, factor=1):
    """A model's weights with other names, and other values where they are another network's."""
    return {prefix + key: value * factor for key, value in model.state_dict().items()}


def in_mmpretrain(vit):
    """The ViT in mmpretrain's naming, as an export writes it."""
    cfg = dict(
        type='VisionTransformer',
        arch=dict(embed_dims=192, num_layers=2, num_heads=3, feedforward_channels=768),
        img_size=32,
        patch_size=8,
    )
    backbone = MODELS.build(cfg)
    torch.save(vit.state_dict(), '_vit.pth')
    initialize_backbone(backbone, Stored.read('_vit.pth'))
    return backbone


RESNETS = {
    'MoCo v1 or v2': lambda net: dict(
        state_dict=under('module.encoder_q.', net)
        | under('module.encoder_k.', net, 0)
        | {'module.encoder_q.fc.0.weight': torch.ones(1), 'module.queue': torch.ones(1)}
    ),
    'SwAV': lambda net: (
        under('module.', net)
        | {
            'module.projection_head.0.weight': torch.ones(1),
            'module.prototypes.weight': torch.ones(1),
        }
    ),
    'DINO': lambda net: dict(
        student=under('module.backbone.', net, 0) | {'module.head.mlp.0.weight': torch.ones(1)},
        teacher=under('backbone.', net) | {'head.mlp.0.weight': torch.ones(1)},
        args=Namespace(arch='resnet18'),
    ),
    'a detector of torchvision': lambda net: (
        {
            key: value
            for key, value in under('backbone.body.', net).items()
            if not key.endswith('num_batches_tracked') and '.fc.' not in key
        }
        | {'backbone.fpn.inner_blocks.0.0.weight': torch.ones(1)}
    ),
    'Lightly': lambda net: dict(
        state_dict=under('backbone.', torch.nn.Sequential(*list(net.children())[:-1]))
        | under('backbone_momentum.', torch.nn.Sequential(*list(net.children())[:-1]), 0)
        | {'projection_head.layers.0.weight': torch.ones(1)}
    ),
    r'backbone\.\* keys': lambda net: dict(
        state_dict=under('encoder_q.0.', net)
        | under('encoder_k.0.', net, 0)
        | under('backbone.', net)
    ),
    r'online\.net\.\* keys': lambda net: dict(model=under('_orig_mod.module.online.net.', net)),
}


@torch.no_grad()
@pytest.mark.parametrize('origin', RESNETS)
def test_a_resnet_is_taken_from_others_checkpoints(tmp_path, resnet, origin):
    torch.save(RESNETS[origin](resnet), tmp_path / 'theirs.pth')
    line = import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    assert line.startswith(f'found {origin}, ResNet 18; wrote'.replace('\\', ''))
    images = torch.randn(2, 3, 32, 32)
    expected = torch.nn.Sequential(*list(resnet.children())[:-1])(images).flatten(1)
    for path in ('theirs.pth', 'ours.pth'):
        trained = read_backbone(Stored.read(tmp_path / path))
        torch.testing.assert_close(pooled(trained.backbone(images)), expected)
    started = MODELS.build(dict(type='ResNet', depth=18))
    initialize_backbone(started, Stored.read(tmp_path / 'theirs.pth'))
    started.eval()
    torch.testing.assert_close(pooled(started(images)), expected)


VITS = {
    'DINO': lambda net: dict(
        student=under('module.backbone.', net, 0), teacher=under('backbone.', net)
    ),
    'MAE': lambda net: dict(
        model=under('', net)
        | {'mask_token': torch.ones(1), 'decoder_embed.weight': torch.ones(1)}
        | {'decoder_pos_embed': torch.ones(1), 'decoder_blocks.0.norm1.weight': torch.ones(1)}
    ),
    'mmpretrain': lambda net: dict(state_dict=under('', in_mmpretrain(net))),
    'backbone.* keys': lambda net: dict(state_dict=under('backbone.', in_mmpretrain(net))),
}


@torch.no_grad()
@pytest.mark.parametrize('origin', VITS)
def test_a_vit_is_taken_from_others_checkpoints(tmp_path, monkeypatch, vit, origin):
    monkeypatch.chdir(tmp_path)
    torch.save(VITS[origin](vit), 'theirs.pth')
    line = import_checkpoint('theirs.pth', 'ours.pth')
    assert line.startswith(f'found {origin}, VisionTransformer with 3 heads; wrote')
    images = torch.randn(2, 3, 32, 32)
    expected = vit.forward_features(images)[:, 0]
    for path in ('theirs.pth', 'ours.pth'):
        trained = read_backbone(Stored.read(path))
        assert trained.edge == 32
        torch.testing.assert_close(trained.backbone(images)[-1], expected, rtol=1e-4, atol=1e-4)


def dinov2(net):
    """A model of timm in DINOv2's own format, with registers."""
    weights = net.state_dict()
    weights['register_tokens'] = weights.pop('reg_token')
    weights['mask_token'] = torch.zeros(1, 192)
    positions = torch.cat([torch.ones(1, 1, 192), weights['pos_embed']], dim=1)
    return weights | dict(pos_embed=positions, cls_token=weights['cls_token'] - 1)


def ijepa(net):
    weights = {f'module.{key}': value for key, value in net.state_dict().items()}
    context = {key: 0 * value for key, value in weights.items()}
    return dict(encoder=context, predictor=dict(context), target_encoder=weights, epoch=3)


@torch.no_grad()
@pytest.mark.parametrize(
    ('name', 'saved'),
    [
        ('tiny_dinov2', dinov2),
        ('tiny_dinov2', lambda net: dict(teacher=under('backbone.', net))),
        ('tiny_ijepa', ijepa),
        ('test_convnext', lambda net: under('backbone.timm_model.', net)),
    ],
)
def test_what_only_timm_has_is_taken_by_its_name(tmp_path, name, saved):
    torch.manual_seed(0)
    theirs = stirred(timm.create_model(name, num_classes=0))
    torch.save(saved(theirs), tmp_path / 'theirs.pth')
    with pytest.raises(ValueError, match=r'theirs\.pth.*pass .*name.*--timm-model'):
        read_backbone(Stored.read(tmp_path / 'theirs.pth'))
    import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', timm_model=name)
    trained = read_backbone(Stored.read(tmp_path / 'ours.pth'))
    started = MODELS.build(dict(type='TIMMRepresentation', model_name=name))
    initialize_backbone(started, Stored.read(tmp_path / 'theirs.pth'))
    started.eval()
    images = torch.randn(2, 3, 32, 32)
    expected = theirs.forward_features(images)
    for backbone in (trained.backbone, started):
        torch.testing.assert_close(backbone.timm_model.forward_features(images), expected)


def test_what_timm_would_resize_is_not_imported(tmp_path):
    theirs = timm.create_model('tiny_dinov2', num_classes=0, img_size=64)
    torch.save(dinov2(theirs), tmp_path / 'theirs.pth')
    with pytest.raises(ValueError, match=r'pos_embed \(1, 65, 192\) where \(1, 16, 192\) is meant'):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', None, 'tiny_dinov2')


@torch.no_grad()
def test_the_backbone_of_a_detector_of_mmdet_is_read_by_its_config(tmp_path):
    from mmdet.registry import MODELS as MMDET_MODELS

    cfg = dict(
        type='ResNet',
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        theirs = stirred(MMDET_MODELS.build(cfg | dict(norm_cfg=dict(type='BN'))))
    preprocessing = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=True)
    full = dict(default_scope='mmdet', model=dict(backbone=cfg, data_preprocessor=preprocessing))
    meta = dict(cfg=Config(full).pretty_text, dataset_meta=dict(CLASSES=('cat',)))
    weights = under('backbone.', theirs) | {'neck.fpn_convs.0.conv.weight': torch.ones(1)}
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / 'detector.pth')
    trained = read_backbone(Stored.read(tmp_path / 'detector.pth'))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(trained.backbone(images)[-1], theirs(images)[-1])
    assert trained.preprocessing == dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)
    assert not {'frozen_stages', 'norm_eval', 'init_cfg'} & trained.cfg.keys()
    import_checkpoint(tmp_path / 'detector.pth', tmp_path / 'ours.pth')
    export(tmp_path / 'ours.pth', tmp_path / 'torchvision.pth', 'torchvision')
    missing, unexpected = torchvision.models.resnet18().load_state_dict(
        torch.load(tmp_path / 'torchvision.pth'), strict=False
    )
    assert missing == ['fc.weight', 'fc.bias'] and not unexpected


def test_other_backbones_of_mmdet_are_built_by_mmdet(tmp_path):
    from mmdet.registry import MODELS as MMDET_MODELS

    cfg = dict(type='SwinTransformer', embed_dims=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    with DefaultScope.overwrite_default_scope('mmdet'):
        theirs = MMDET_MODELS.build(cfg)
    text = Config(dict(default_scope='mmdet', model=dict(backbone=cfg))).pretty_text
    content = dict(state_dict=under('backbone.', theirs), meta=dict(cfg=text))
    torch.save(content, tmp_path / 'swin.pth')
    trained = read_backbone(Stored.read(tmp_path / 'swin.pth'))
    assert type(trained.backbone) is type(theirs)
    assert trained.cfg['type'] == 'mmdet.SwinTransformer'
    content['meta']['cfg'] = text.replace('embed_dims', 'embedding')
    torch.save(content, tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match=r'swin\.pth .*mmdet\.SwinTransformer.*embedding'):
        read_backbone(Stored.read(tmp_path / 'swin.pth'))


@torch.no_grad()
def test_mae_of_mmpretrain_is_read_as_the_vit_that_sees_all_patches(tmp_path):
    arch = dict(embed_dims=48, num_layers=2, num_heads=4, feedforward_channels=96)
    cfg = dict(type='MAEViT', arch=arch, img_size=32, patch_size=8, mask_ratio=0.5)
    theirs = stirred(MODELS.build(cfg))
    meta = dict(cfg=Config(dict(model=dict(type='MAE', backbone=cfg))).pretty_text)
    torch.save(dict(state_dict=under('backbone.', theirs), meta=meta), tmp_path / 'mae.pth')
    trained = read_backbone(Stored.read(tmp_path / 'mae.pth'))
    images = torch.randn(2, 3, 32, 32)
    theirs.out_type = 'cls_token'
    (expected,) = theirs(images, mask=None)
    torch.testing.assert_close(trained.backbone(images)[-1], expected)
