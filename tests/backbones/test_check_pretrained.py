"""A pretrained backbone is loaded in full, or training does not start."""

import pytest
import torch
from helpers import ROOT, run_tool, small_model
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmsnclr.backbones import check_pretrained


@pytest.fixture
def checkpoint(tmp_path):
    model = MODELS.build(small_model())
    path = tmp_path / 'snclr.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def classifier(path, prefix='backbone.', **backbone):
    config = Config.fromfile(ROOT / 'configs/demo/linear_digits.py').model
    config.backbone.update(backbone)
    config.backbone.init_cfg.update(checkpoint=str(path), prefix=prefix)
    return MODELS.build(config)


def test_a_full_backbone_passes_and_is_loaded(checkpoint):
    model = classifier(checkpoint)
    check_pretrained(model)
    model.init_weights()
    stored = torch.load(checkpoint)['state_dict']
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, stored[f'backbone.{name}'])


@pytest.mark.parametrize('prefix', [None, 'encoder.', 'neck.'])
def test_a_wrong_prefix_is_refused_and_the_right_one_named(checkpoint, prefix):
    message = r"conv1\.weight.*set model\.backbone\.init_cfg\.prefix='backbone\.'"
    with pytest.raises(ValueError, match=message):
        check_pretrained(classifier(checkpoint, prefix))


def test_a_part_that_an_override_fills_is_checked_and_its_setting_named(checkpoint):
    model = classifier(checkpoint)
    override = dict(type='Pretrained', name='layer4', checkpoint=str(checkpoint))
    model.backbone.init_cfg = [
        dict(type='Constant', layer='BatchNorm2d', val=1, override=override),
    ]
    message = r"set model\.backbone\.init_cfg\.0\.override\.prefix='backbone\.layer4\.'"
    with pytest.raises(ValueError, match=message):
        check_pretrained(model)
    override['prefix'] = 'backbone.layer4.'
    assert [stored.path for stored in check_pretrained(model)] == [checkpoint]


def test_another_network_is_refused(checkpoint):
    with pytest.raises(ValueError, match='of another shape'):
        check_pretrained(classifier(checkpoint, base_channels=8))


def test_a_partial_backbone_is_refused(checkpoint):
    stored = torch.load(checkpoint)
    del stored['state_dict']['backbone.layer4.1.conv2.weight']
    torch.save(stored, checkpoint)
    with pytest.raises(ValueError, match=r'missing.*layer4\.1\.conv2\.weight'):
        check_pretrained(classifier(checkpoint))


def test_a_partial_backbone_is_not_told_to_use_the_prefix_that_it_uses(checkpoint):
    stored = torch.load(checkpoint)
    for encoder in ('backbone.', 'momentum_encoder.0.'):
        del stored['state_dict'][f'{encoder}layer4.1.conv2.weight']
    torch.save(stored, checkpoint)
    with pytest.raises(
        ValueError, match=r'No other prefix fits better.*--allow-partial-pretrained'
    ):
        check_pretrained(classifier(checkpoint))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r'none\.pth.*model\.backbone\.init_cfg\.checkpoint'
    ):
        check_pretrained(classifier(tmp_path / 'none.pth'))


@pytest.mark.parametrize('flags', [(), ('--resume',)], ids=['anew', 'nothing to resume'])
def test_training_stops_before_it_starts(checkpoint, digits, tmp_path, flags):
    result = run_tool(
        'tools/train.py',
        'configs/demo/linear_digits.py',
        *flags,
        '--work-dir',
        str(tmp_path / 'run'),
        '--cfg-options',
        f'model.backbone.init_cfg.checkpoint={checkpoint}',
        'model.backbone.init_cfg.prefix=momentum.',
        f'train_dataloader.dataset.data_root={digits / "labelled"}',
    )
    assert result.returncode != 0
    assert "set model.backbone.init_cfg.prefix='backbone.'" in result.stderr
    assert 'Epoch(train)' not in result.stdout


def test_a_vit_with_other_heads_is_refused(tmp_path):
    released, linear = (
        Config.fromfile(ROOT / f'configs/{name}.py')
        for name in ('snclr_vit-s_300e_released', 'linear_vit-s_released_in1k')
    )
    weights = MODELS.build(released.model.backbone).state_dict()
    weights = {f'backbone.{key}': value for key, value in weights.items()}
    path = tmp_path / 'released.pth'
    torch.save(dict(state_dict=weights, meta=dict(cfg=released.pretty_text)), path)
    other = Config.fromfile(ROOT / 'configs/linear_vit-s_in1k.py')
    for config in (linear, other):
        config.model.backbone.init_cfg.checkpoint = str(path)
    check_pretrained(MODELS.build(linear.model))
    with pytest.raises(ValueError, match='a ViT with 12 heads, the backbone has 6'):
        check_pretrained(MODELS.build(other.model))


def test_weights_that_mmengine_would_not_find_do_not_count(tmp_path):
    """It looks for them in `state_dict` and on top, and trains on where they lie elsewhere."""
    backbone = MODELS.build(dict(type='ResNet', depth=18))
    path = tmp_path / 'nested.pth'
    backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    torch.save(backbone.state_dict(), path)
    assert check_pretrained(backbone)
    torch.save(dict(model=backbone.state_dict()), path)
    with pytest.raises(ValueError, match='fills 0 of the'):
        check_pretrained(backbone)
