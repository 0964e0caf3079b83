"""A foreign backbone is imported so that it computes the same, or not at all."""

import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import save_file
from torch import nn

from mmsnclr.api import export, import_checkpoint
from mmsnclr.backbones import check_pretrained
from mmsnclr.cli import main


def stirred(model):
    """The model with weights as of a training."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(0.5, 2)
            elif value.is_floating_point() and 'pos_embed' not in name:
                value.add_(torch.randn_like(value) * (0.5 if value.ndim == 1 else 0.02))
    return model.eval()


def moco(encoder, head='head'):
    """An encoder's weights as MoCo v3 and SNCLR's released code write them."""
    encoder = {key: value for key, value in encoder.items() if not key.startswith(f'{head}.')}
    encoder[f'{head}.0.weight'] = torch.ones(4, 4)
    weights = {f'module.base_encoder.{key}': value for key, value in encoder.items()}
    weights |= {f'module.momentum_encoder.{key}': 0 * value for key, value in encoder.items()}
    return weights | {'module.predictor.0.weight': torch.ones(4, 4)}


def start_from(path):
    """The backbone that the stored config describes, filled from the file."""
    text = torch.load(path, weights_only=True)['meta']['cfg']
    cfg = Config.fromstring(text, file_format='.py').model.backbone
    cfg.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    backbone = MODELS.build(cfg)
    check_pretrained(nn.ModuleDict(dict(backbone=backbone)))
    backbone.init_weights()
    backbone.eval()
    return backbone


@torch.no_grad()
def assert_same(expected, actual):
    assert expected.shape == actual.shape
    assert (expected[0] - expected[1]).abs().max() > 0.01 * expected.abs().max()
    assert (expected - actual).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_the_twelve_heads_of_the_released_vit_s_stay_twelve(tmp_path):
    theirs = stirred(timm.create_model('vit_small_patch16_224', num_heads=12))
    weights = moco(theirs.state_dict()) | {'module.memory_bank.bank': torch.zeros(4, 8)}
    content = dict(epoch=300, arch='vit_small', state_dict=weights, optimizer=dict(state={}))
    torch.save(content, tmp_path / 'theirs.pth.tar')
    line = import_checkpoint(tmp_path / 'theirs.pth.tar', tmp_path / 'ours.pth')
    assert "SNCLR's released code, MoCoV3ViT with 12 heads" in line
    images = torch.randn(2, 3, 224, 224)
    ours = start_from(tmp_path / 'ours.pth')
    expected = theirs.forward_features(images)[:, 0]
    assert_same(expected, ours(images)[-1])
    six = stirred(timm.create_model('vit_small_patch16_224'))
    assert (six.forward_features(images)[:, 0] - expected).abs().max() > 0.01

    line = export(tmp_path / 'ours.pth', tmp_path / 'again.pth', 'timm')
    assert 'num_heads=12' in line
    again = torch.load(tmp_path / 'again.pth')
    assert theirs.state_dict().keys() - again.keys() == {'head.weight', 'head.bias'}
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in again.items())

    # Learned positions tell nothing, the metadata does.
    content = torch.load(tmp_path / 'ours.pth')
    content['state_dict']['backbone.pos_embed'][0, 0] = 1
    torch.save(content, tmp_path / 'learned.pth')
    export(tmp_path / 'learned.pth', tmp_path / 'learned.safetensors', 'safetensors')
    line = import_checkpoint(tmp_path / 'learned.safetensors', tmp_path / 'back.pth')
    assert 'found timm, VisionTransformer with 12 heads' in line


def test_fixed_positions_tell_a_converted_checkpoint_from_one_of_timm(tmp_path):
    weights = timm.create_model('vit_small_patch16_224', num_classes=0).state_dict()
    torch.save(dict(model=weights), tmp_path / 'timm.pth')
    assert 'timm, VisionTransformer with 6 heads' in import_checkpoint(
        tmp_path / 'timm.pth', tmp_path / 'ours.pth'
    )
    weights['pos_embed'][0, 0] = 0
    torch.save(dict(model=weights), tmp_path / 'moco.pth')
    assert 'with 12 heads' in import_checkpoint(tmp_path / 'moco.pth', tmp_path / 'others.pth')


@torch.no_grad()
@pytest.mark.parametrize('source', ['torchvision', 'timm', 'MoCo v3'])
def test_resnets_of_other_libraries_represent_images_alike(tmp_path, source):
    library = timm if source == 'timm' else torchvision.models
    theirs = stirred(library.create_model('resnet18') if library is timm else library.resnet18())
    weights = theirs.state_dict()
    if source == 'timm':
        save_file(weights, tmp_path / 'theirs.safetensors')
        path = tmp_path / 'theirs.safetensors'
    else:
        path = tmp_path / 'theirs.pth'
        torch.save(dict(state_dict=moco(weights, 'fc')) if source == 'MoCo v3' else weights, path)
    line = import_checkpoint(path, tmp_path / 'ours.pth')
    assert source in line and 'ResNet 18' in line
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    ours = start_from(tmp_path / 'ours.pth')
    assert_same(theirs(images), ours(images)[-1].mean(dim=(2, 3)))


@torch.no_grad()
def test_a_vit_of_torchvision_represents_images_alike(tmp_path):
    kwargs = dict(image_size=32, patch_size=8, num_layers=2, hidden_dim=48, mlp_dim=96)
    theirs = stirred(torchvision.models.VisionTransformer(num_heads=4, **kwargs))
    torch.save(theirs.state_dict(), tmp_path / 'theirs.pth')
    with pytest.raises(ValueError, match=r'width 48, whose weights do not tell .*--heads'):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', heads=4)
    theirs.heads = nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    assert_same(theirs(images), start_from(tmp_path / 'ours.pth')(images)[-1])


@torch.no_grad()
def test_any_other_model_of_timm_is_imported_by_its_name(tmp_path):
    theirs = stirred(timm.create_model('test_convnext'))
    torch.save(theirs.state_dict(), tmp_path / 'theirs.pth')
    with pytest.raises(ValueError, match=r'holds \d+ entries .*stem.*--timm-model'):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    with pytest.raises(ValueError, match="timm_model='nonsense'"):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', timm_model='nonsense')
    with pytest.raises(ValueError, match='weights are of another network'):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', timm_model='test_vit')
    assert not (tmp_path / 'ours.pth').exists()
    import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', timm_model='test_convnext')
    images = torch.randn(2, 3, 96, 96)
    theirs.reset_classifier(0, '')
    assert_same(theirs(images).mean(dim=(2, 3)), start_from(tmp_path / 'ours.pth')(images)[-1])


class Surprise:
    """What a hostile file could hold."""

    def __reduce__(self):
        return (print, ('code of the file ran',))


def test_files_at_fault_are_named_and_run_no_code(tmp_path, capsys):
    resnet = torchvision.models.resnet18().state_dict()
    bare = {key: value for key, value in resnet.items() if key != 'layer2.0.conv1.weight'}
    deep = resnet | {'layer1.2.conv1.weight': torch.ones(1)}
    for content, message in (
        (dict(state_dict=resnet, extra=Surprise()), 'could run code on loading'),
        ([1, 2], 'holds a list, not a state dict'),
        ({1: torch.ones(1)}, r'holds 1 entries \(1\), not a state dict'),
        (dict(epoch=3, note='nothing'), r'holds 2 entries \(epoch, note\), not a state dict'),
        ({'backbone.conv1.weight': torch.ones(1)}, r'holds 1 entries \(conv1.weight\)'),
        ({'encoder.0.weight': torch.ones(1)}, r'holds 1 entries \(encoder.0.weight\)'),
        (bare, r"1 are missing \['layer2.0.conv1.weight'\]"),
        (deep, r'ResNet of \(3, 2, 2, 2\) basic blocks'),
        (resnet | {'layer1.0.se.weight': torch.ones(1)}, r"1 too many \['layer1.0.se.weight'\]"),
        (resnet | {'conv1.weight': torch.ones(8, 3, 7, 7)}, r'conv1.weight \(8, 3, 7, 7\)'),
    ):
        torch.save(content, tmp_path / 'theirs.pth')
        with pytest.raises(ValueError, match=f'theirs.pth.*{message}'):
            import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    assert 'ran' not in capsys.readouterr().out
    (tmp_path / 'broken.safetensors').write_bytes(b'no')
    (tmp_path / 'broken.pth').write_bytes(b'no')
    (tmp_path / 'text.pth').write_bytes(b'hello')  # which happens to be an order to the unpickler
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / 'script.pth')
    for name, message in (
        ('script.pth', 'script.pth is a TorchScript program'),
        ('broken.safetensors', 'broken.safetensors is damaged'),
        ('broken.pth', 'is not a checkpoint of torch'),
        ('text.pth', 'text.pth is not a checkpoint of torch'),
    ):
        with pytest.raises(ValueError, match=message):
            import_checkpoint(tmp_path / name, tmp_path / 'ours.pth')
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        import_checkpoint(tmp_path / 'none.pth', tmp_path / 'ours.pth')
    with pytest.raises(ValueError, match='overwrite the original'):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'theirs.pth')
    with pytest.raises(ValueError, match='is a folder: pass the file to write'):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path)
    with pytest.raises(ValueError, match="timm_model='crossvit_9_240': Only token or avg pool"):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', None, 'crossvit_9_240')
    with pytest.raises(ValueError, match=r'Unknown model.*did you mean .*convnext_tiny'):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', None, 'convnext_tny')
    resnet['layer1.0.conv1.weight'][0, 0, 0, 0] = torch.nan
    torch.save(resnet, tmp_path / 'theirs.pth')
    with pytest.raises(ValueError, match=r'1 of its \d+ weights are not finite.*layer1.0.conv1'):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    assert not (tmp_path / 'ours.pth').exists()
    (tmp_path / 'ours.pth').write_text('of another')
    with pytest.raises(ValueError, match=r"out='.*ours\.pth' is there already"):
        import_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    assert (tmp_path / 'ours.pth').read_text() == 'of another'


def test_the_verb_says_what_it_found(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'theirs.pth')
    arguments = ['import', str(tmp_path / 'theirs.pth'), str(tmp_path / 'ours.pth')]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('found torchvision or timm, ResNet 18; wrote')
    result = CliRunner().invoke(
        main, ['import', str(tmp_path / 'ours.pth'), str(tmp_path / 'again.pth')]
    )
    assert result.stdout.startswith('found ResNet by its own config; wrote')
