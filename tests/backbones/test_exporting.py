"""An exported backbone represents images as the trained one does, or is not written."""

import copy
import json
import sys

import mmpretrain
import onnxruntime
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from click.testing import CliRunner
from helpers import small_model
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.registry import MODELS

from mmsnclr.api import export
from mmsnclr.cli import main

RESNET = dict(type='mmpretrain.ResNet', depth=18, norm_cfg=dict(type='SyncBN'))
NARROW = RESNET | dict(stem_channels=16, base_channels=16)
ARCH = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=96)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8)
MOCO = dict(type='MoCoV3ViT', arch='mocov3-small', img_size=224, patch_size=16)
TIMM = dict(type='TIMMRepresentation', model_name='test_vit', img_size=32)


@pytest.fixture
def trained(tmp_path):
    """Builds SNCLR on a backbone, gives it weights as of a training and a checkpoint."""

    def train(backbone, size=224):
        model_cfg = small_model()
        model_cfg.backbone = backbone
        torch.manual_seed(0)
        model = MODELS.build(copy.deepcopy(model_cfg))
        with torch.no_grad():
            for name, value in model.backbone.state_dict().items():
                if name.endswith('running_var'):
                    value.uniform_(0.5, 2)
                elif value.is_floating_point():
                    value.add_(torch.randn_like(value) * (0.5 if value.ndim == 1 else 0.05))
        views = dict(type='AugmentedViews', views=[dict(size=size)])
        loader = dict(dataset=dict(pipeline=[views]))
        meta = dict(cfg=Config(dict(model=model_cfg, train_dataloader=loader)).pretty_text)
        torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'epoch_1.pth')
        model.eval()
        return tmp_path / 'epoch_1.pth', model.backbone

    return train


def assert_same(expected, actual):
    """Two images that differ from each other are represented alike."""
    scale = expected.abs().max()
    assert expected.shape == actual.shape
    assert (expected[0] - expected[1]).abs().max() > 0.01 * scale
    assert (expected - actual).abs().max() < 1e-5 * scale


def load_flat(model, path):
    missing, unexpected = model.load_state_dict(torch.load(path), strict=False)
    assert all(key.startswith(('fc.', 'head.', 'heads.')) for key in missing)
    assert not unexpected
    return model.eval()


@torch.no_grad()
def test_resnet_represents_images_alike_in_all_three_libraries(trained, tmp_path):
    checkpoint, backbone = trained(RESNET)
    images = torch.randn(2, 3, 64, 64)
    outs = {to: tmp_path / 'new' / f'{to}.pth' for to in ('mmpretrain', 'torchvision', 'timm')}
    for to, out in outs.items():
        assert str(out) in export(checkpoint, out, to)
    plain = dict(type='ResNet', depth=18)
    plain['init_cfg'] = dict(type='Pretrained', checkpoint=str(outs['mmpretrain']))
    theirs = MODELS.build(plain)
    theirs.init_weights()
    theirs.eval()
    expected = backbone(images)[-1]
    assert_same(expected, theirs(images)[-1])
    theirs = load_flat(torchvision.models.resnet18(), outs['torchvision'])
    theirs.fc = torch.nn.Identity()
    assert_same(expected.mean(dim=(2, 3)), theirs(images))
    theirs = load_flat(timm.create_model('resnet18'), outs['timm'])
    assert_same(expected, theirs.forward_features(images))


@torch.no_grad()
@pytest.mark.parametrize(
    ('backbone_cfg', 'size', 'call'),
    [
        (VIT, 32, 'vit_base_patch16_224'),
        (MOCO, 224, "timm.create_model('vit_small_patch16_224', num_heads=12)"),
    ],
)
def test_vit_of_any_head_count_loads_as_the_message_says(
    trained, tmp_path, backbone_cfg, size, call
):
    checkpoint, backbone = trained(backbone_cfg)
    images = torch.randn(2, 3, size, size)
    expected = backbone(images)[-1]
    for to in ('timm', 'torchvision'):
        line = export(checkpoint, tmp_path / f'{to}.pth', to)
        assert (call if to == 'timm' else 'torchvision.models.VisionTransformer(') in line
        names = dict(timm=timm, torchvision=torchvision, torch=torch)
        exec(line.partition('load it with ')[2], names)
        theirs = load_flat(names['model'], tmp_path / f'{to}.pth')
        if to == 'torchvision':
            theirs.heads = torch.nn.Identity()
            assert_same(expected, theirs(images))
        else:
            assert_same(expected, theirs.forward_features(images)[:, 0])


@torch.no_grad()
@pytest.mark.parametrize('backbone_cfg', [VIT, NARROW])
def test_any_width_loads_in_mmpretrain_as_the_message_says(trained, tmp_path, backbone_cfg):
    checkpoint, backbone = trained(backbone_cfg)
    line = export(checkpoint, tmp_path / 'out.pth', 'mmpretrain')
    names = {}
    exec(line.partition('load it with ')[2], names)
    theirs = MODELS.build(names['backbone'])
    theirs.init_weights()
    theirs.eval()
    images = torch.randn(2, 3, 32, 32)
    assert_same(backbone(images)[-1], theirs(images)[-1])
    meta = torch.load(tmp_path / 'out.pth')['meta']
    assert (meta['source'], meta['naming']) == ('epoch_1.pth', 'mmpretrain')
    assert backbone_cfg['type'] in meta['architecture']


@torch.no_grad()
def test_a_timm_model_goes_to_timm_only(trained, tmp_path):
    checkpoint, backbone = trained(TIMM)
    export(checkpoint, tmp_path / 'out.pth', 'timm')
    theirs = load_flat(timm.create_model('test_vit', img_size=32), tmp_path / 'out.pth')
    images = torch.randn(2, 3, 32, 32)
    assert_same(backbone(images)[-1], theirs.forward_features(images)[:, 0])
    for to in ('mmpretrain', 'torchvision'):
        with pytest.raises(ValueError, match="pass to='timm'"):
            export(checkpoint, tmp_path / f'{to}.pth', to)


@pytest.mark.parametrize(
    ('backbone_cfg', 'message'),
    [
        (RESNET | dict(strides=(1, 2, 2, 1)), 'represents images differently'),
        (RESNET | dict(out_indices=(2,)), 'represents images differently'),
        (VIT | dict(norm_cfg=dict(type='LN', eps=0.1)), 'represents images differently'),
        (VIT | dict(layer_cfgs=dict(num_heads=2)), 'represents images differently'),
        (VIT | dict(layer_scale_init_value=0.5), 'other weights'),
        (VIT | dict(img_size=33), 'cannot take the backbone'),
        (VIT | dict(out_type='featmap'), "needs .* out_type='cls_token'"),
        (NARROW, r"base_channels=16; pass to='mmpretrain'"),
    ],
)
@pytest.mark.parametrize('to', ['torchvision', 'timm'])
def test_what_the_target_computes_otherwise_is_not_written(
    trained, tmp_path, backbone_cfg, message, to
):
    checkpoint, _ = trained(backbone_cfg)
    with pytest.raises(ValueError, match=message):
        export(checkpoint, tmp_path / 'out.pth', to)
    assert not (tmp_path / 'out.pth').exists()


def test_arguments_at_fault_are_named(trained, tmp_path):
    good, _ = trained(VIT)
    out = tmp_path / 'out.pth'
    with pytest.raises(ValueError, match="to='keras' must be one of mmpretrain"):
        export(good, out, 'keras')
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        export(tmp_path / 'none.pth', out, 'timm')
    with pytest.raises(ValueError, match='out='):
        export(good, good, 'timm')
    out.touch()
    with pytest.raises(ValueError, match=r"out='.*out\.pth' is there already"):
        export(good, out, 'timm')
    out.unlink()
    stored = torch.load(good)
    weights = stored['state_dict']
    for changed, message in (
        (dict(state_dict={'neck.weight': weights['neck.fc0.weight']}), 'holds 1 entries'),
        (dict(meta={}), r'width 48.*--heads'),
        (dict(state_dict={'backbone.ln1.bias': weights['backbone.ln1.bias']}), 'its own config'),
    ):
        torch.save(stored | changed, tmp_path / 'changed.pth')
        with pytest.raises(ValueError, match=message):
            export(tmp_path / 'changed.pth', out, 'timm')


@pytest.mark.parametrize('verb', ['export', 'import', 'detect', 'predict'])
def test_the_help_of_a_verb_fits_a_screen_and_has_an_example(verb):
    result = CliRunner().invoke(main, [verb, '--help'], prog_name='mmsnclr')
    lines = result.stdout.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert any(line.startswith(f'  mmsnclr {verb} ') for line in lines)
    assert '\\b' not in result.stdout


def test_the_verb_prints_one_line(trained, tmp_path):
    checkpoint, _ = trained(TIMM)
    out = tmp_path / 'out.pth'
    result = CliRunner().invoke(main, ['export', str(checkpoint), str(out), '--to', 'timm'])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    assert "timm.create_model('test_vit', img_size=32)" in result.stdout
    assert out.exists()


@torch.no_grad()
@pytest.mark.parametrize(
    ('backbone_cfg', 'strides'),
    [
        (RESNET, '4, 8, 16, 32'),
        (NARROW, '4, 8, 16, 32'),
        (VIT, '4, 8, 16, 32'),
        (VIT | dict(type='MoCoV3ViT', patch_size=16), '4, 8, 16, 32'),
        (TIMM, '4, 8, 16, 32'),
        (dict(type='TIMMRepresentation', model_name='test_convnext'), '4, 8, 16, 32'),
        (dict(type='TIMMRepresentation', model_name='test_efficientnet'), '4, 8, 16, 32'),
    ],
    ids=lambda cfg: cfg.get('model_name', cfg['type']) if isinstance(cfg, dict) else '',
)
def test_mmdet_builds_on_the_maps_as_the_message_says(trained, tmp_path, backbone_cfg, strides):
    from mmdet.registry import MODELS as MMDET_MODELS

    checkpoint, backbone = trained(backbone_cfg)
    line = export(checkpoint, tmp_path / 'out.pth', 'mmdet')
    assert f'of strides {strides}, 64' in line
    names = {}
    exec(line.partition('load it with ')[2], names)
    with DefaultScope.overwrite_default_scope('mmdet'):
        theirs, neck = (MMDET_MODELS.build(names[part]) for part in ('backbone', 'neck'))
        theirs.init_weights()
    of_mmdet = 'ResNet' in backbone_cfg['type']
    assert type(theirs).__module__.startswith('mmdet' if of_mmdet else 'mmpretrain.')
    theirs.eval()
    images = torch.randn(2, 3, 32, 96)
    maps = theirs(images)
    assert [level.shape[1:] for level in neck(maps)] == [
        (256, 32 // stride, 96 // stride) for stride in (4, 8, 16, 32)
    ] + [(256, 1, 2)]
    if isinstance(backbone, VisionTransformer):
        backbone.out_type = 'featmap'
        assert_same(backbone(images)[-1], maps[-1])
    elif of_mmdet:
        backbone.out_indices = (0, 1, 2, 3)
        for expected, actual in zip(backbone(images), maps, strict=True):
            assert_same(expected, actual)
    else:
        export(checkpoint, tmp_path / 'timm.pth', 'timm')
        sizes = dict(img_size=32, dynamic_img_size=True) if backbone_cfg is TIMM else {}
        plain = timm.create_model(backbone_cfg['model_name'], num_classes=0, **sizes)
        load_flat(plain, tmp_path / 'timm.pth')
        all_maps = plain.forward_intermediates(images, intermediates_only=True)
        for expected, actual in zip(all_maps[-len(maps) :], maps, strict=True):
            assert_same(expected, actual)


def test_a_resnet_that_mmdet_does_not_have_is_not_written(trained, tmp_path):
    checkpoint, _ = trained(RESNET | dict(strides=(1, 2, 2, 1)))
    with pytest.raises(ValueError, match=r"backbone strides=.*mmdet's ResNet is not given"):
        export(checkpoint, tmp_path / 'out.pth', 'mmdet')
    assert not (tmp_path / 'out.pth').exists()


@torch.no_grad()
@pytest.mark.parametrize(('backbone_cfg', 'size'), [(NARROW, 224), (NARROW, 64), (VIT, 32)])
def test_onnxruntime_computes_the_same_at_any_batch_size(trained, tmp_path, backbone_cfg, size):
    checkpoint, backbone = trained(backbone_cfg, size)
    out = tmp_path / 'new' / 'out.onnx'
    line = export(checkpoint, out, 'onnx')
    names = dict(onnxruntime=onnxruntime)
    exec(line.partition('run it with ')[2].partition(';')[0], names)
    for batch in (1, 3, 8):
        images = torch.randn(batch, 3, size, size)
        expected = backbone(images)[-1]
        expected = expected.mean(dim=(2, 3)) if expected.ndim == 4 else expected
        (actual,) = names['session'].run(None, {'images': images.numpy()})
        assert actual.shape == expected.shape and len(actual) == batch
        difference = (torch.from_numpy(actual) - expected).abs().max()
        assert difference < 1e-5 * expected.abs().max()
    stored = names['session'].get_modelmeta().custom_metadata_map
    assert json.loads(stored['mean']) == [80.0] * 3 and json.loads(stored['to_rgb']) is True


def test_a_torch_that_is_too_old_for_onnx_is_named(trained, tmp_path, monkeypatch):
    checkpoint, _ = trained(TIMM)
    monkeypatch.setattr('torch.onnx.export', lambda model, args, f: None)
    with pytest.raises(ImportError, match="to='onnx' needs a newer torch than"):
        export(checkpoint, tmp_path / 'out.onnx', 'onnx')


def test_packages_that_onnx_lacks_are_named(trained, tmp_path, monkeypatch):
    checkpoint, _ = trained(TIMM)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match='pip install onnx onnxruntime onnxscript'):
        export(checkpoint, tmp_path / 'out.onnx', 'onnx')


@torch.no_grad()
@pytest.mark.parametrize(
    ('backbone_cfg', 'naming'), [(RESNET, 'timm'), (TIMM, 'timm'), (NARROW, 'mmpretrain')]
)
def test_safetensors_says_its_naming_and_loads_as_the_message_says(
    trained, tmp_path, backbone_cfg, naming
):
    checkpoint, backbone = trained(backbone_cfg)
    out = tmp_path / 'out.safetensors'
    line = export(checkpoint, out, 'safetensors')
    with safetensors.safe_open(out, 'pt') as file:
        meta = file.metadata()
    assert meta['naming'] == naming and meta['source'] == 'epoch_1.pth'
    assert meta['architecture'] in line and json.loads(meta['std']) == [40.0] * 3
    names = dict(timm=timm, safetensors=safetensors, mmpretrain=mmpretrain)
    exec(line.partition('load it with ')[2], names)
    theirs = names['model']
    theirs.eval()
    images = torch.randn(2, 3, 32, 32)
    expected = backbone(images)[-1]
    actual = theirs(images)[-1] if naming == 'mmpretrain' else theirs.forward_features(images)
    assert_same(expected, actual[:, 0] if actual.ndim == 3 else actual)
