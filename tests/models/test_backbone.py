"""Any backbone: mmpretrain's ResNet and ViT, and timm's models."""

import pytest
import timm
import torch
from helpers import images, small_model
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmpretrain.registry import MODELS

from mmsnclr.models import SNCLRNeck, TIMMRepresentation, pooled

TIMM = [
    ('resnet10t', {}, 512),
    ('vit_tiny_patch16_224', dict(img_size=32), 192),  # class token
    ('vit_relpos_small_patch16_224', dict(img_size=32), 384),  # no class token
    ('swin_tiny_patch4_window7_224', dict(img_size=32, window_size=2), 768),  # channels last
    ('convnext_atto', {}, 320),
    ('mobilenetv3_small_050', {}, 1024),  # wider than its features
]


@pytest.mark.parametrize(('name', 'options', 'width'), TIMM, ids=[name for name, *_ in TIMM])
def test_a_timm_model_gives_one_vector_per_image(name, options, width):
    backbone = TIMMRepresentation(model_name=name, **options)
    backbone.eval()  # returns nothing
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (feat,) = backbone(x)
        tokens = backbone.timm_model(x)
    assert feat.shape == (2, width) and backbone.out_channels == width
    if name.startswith('vit_tiny'):
        torch.testing.assert_close(feat, tokens[:, 0])
    elif name.startswith('vit_relpos'):
        torch.testing.assert_close(feat, tokens.mean(1))
    elif name.startswith('swin'):
        assert tokens.shape[-1] == width
        torch.testing.assert_close(feat, tokens.mean((1, 2)))
    else:
        torch.testing.assert_close(feat, tokens.mean((2, 3)))


def test_a_class_token_comes_before_register_tokens():
    name, options = 'vit_small_patch14_reg4_dinov2', dict(img_size=28)
    backbone = TIMMRepresentation(model_name=name, **options)
    backbone.eval()  # returns nothing
    x = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        expected = timm.layers.global_pool_nlc(backbone.timm_model(x), 'token', 5)
        torch.testing.assert_close(backbone(x)[0], expected)


@pytest.mark.parametrize(
    ('backbone', 'width'),
    [
        (dict(type='VisionTransformer', arch='deit-small', img_size=32, patch_size=16), 384),
        (dict(type='TIMMRepresentation', model_name='convnext_atto'), 320),
        (dict(type='TIMMRepresentation', model_name='vit_tiny_patch16_224', img_size=32), 192),
    ],
)
def test_snclr_trains_any_backbone(backbone, width):
    config = small_model()
    config.backbone = backbone
    config.neck.in_channels = width
    model = revert_sync_batchnorm(MODELS.build(config))
    for _ in range(2):
        model.loss(*images(4, seed=0))['loss'].backward()
        model.after_optimizer_step(0.5)
    gradients = [p.grad for p in model.backbone.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


VITS = {
    'VisionTransformer': dict(arch='deit-small', img_size=32, patch_size=16),
    'MoCoV3ViT': dict(arch='mocov3-small', img_size=32, patch_size=16, out_type='cls_token'),
    'TIMMRepresentation': dict(model_name='vit_tiny_patch16_224', img_size=32),
}


def frozen_names(module):
    return {name for name, p in module.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize('kind', VITS)
def test_a_frozen_patch_embedding_is_all_that_does_not_learn(kind):
    config = small_model()
    config.backbone = dict(type=kind, **VITS[kind])
    config.neck.in_channels = 192 if kind == 'TIMMRepresentation' else 384
    free = frozen_names(revert_sync_batchnorm(MODELS.build(config)).backbone)
    assert free == ({'pos_embed'} if kind == 'MoCoV3ViT' else set())

    model = revert_sync_batchnorm(MODELS.build(dict(config, frozen_patch_embed=True)))
    frozen = frozen_names(model.backbone) - free  # what DDP will see, before initialisation
    assert frozen in (
        {'patch_embed.projection.weight', 'patch_embed.projection.bias'},
        {'timm_model.patch_embed.proj.weight', 'timm_model.patch_embed.proj.bias'},
    )
    model.init_weights()
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    for seed in range(2):
        optimizer.zero_grad()
        model.loss(*images(4, seed=seed))['loss'].backward()
        optimizer.step()
        model.after_optimizer_step(0.5)
    after = dict(model.backbone.named_parameters())
    assert {name for name in before if before[name].equal(after[name])} == frozen | free
    assert all(after[name] not in optimizer.state for name in frozen)
    momentum = dict(model.momentum_encoder[0].named_parameters())
    assert all(momentum[name].equal(before[name]) for name in frozen)


def test_a_network_without_patches_says_that_nothing_is_frozen(tmp_path):
    log = tmp_path / 'log'
    MMLogger.get_instance('patches', log_file=str(log))
    config = small_model()
    config.backbone = dict(type='TIMMRepresentation', model_name='convnext_atto')
    config.neck.in_channels = None
    model = MODELS.build(dict(config, frozen_patch_embed=True))
    assert not frozen_names(model.backbone)
    assert 'ConvNeXt has no projection of patches' in log.read_text()
    assert 'model.frozen_patch_embed=True' in log.read_text()


def test_deit_small_has_six_heads():
    vit = MODELS.build(dict(type='VisionTransformer', arch='deit-small'))
    assert vit.embed_dims == 384 and vit.layers[0].attn.num_heads == 6


def test_the_last_output_is_pooled_if_it_is_a_map():
    feature_map, vector, tokens = torch.randn(2, 8, 3, 3), torch.randn(2, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(pooled((vector, feature_map)), feature_map.flatten(2).mean(2))
    assert pooled((feature_map, vector)) is vector and pooled((tokens,)) is tokens


def test_the_neck_pools_maps_and_refuses_tokens():
    neck = revert_sync_batchnorm(SNCLRNeck(8, 16, 4)).eval()
    feature_map = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(neck((feature_map,))[0], neck((feature_map.mean((2, 3)),))[0])
    with pytest.raises(ValueError, match="out_type='cls_token'"):
        neck((torch.randn(2, 5, 8),))


def test_the_neck_has_the_papers_layers():
    kinds = [type(m).__name__ for m in SNCLRNeck(8, 16, 4).children()]
    assert kinds.count('Linear') == 2 and kinds.count('SyncBatchNorm') == 1
    released = SNCLRNeck(8, 16, 4, num_layers=3, with_last_bn=True, with_last_bn_affine=False)
    assert sum(type(m).__name__ == 'Linear' for m in released.children()) == 3
    assert released.bn2.weight is None
