"""What `mmsnclr classify` chooses of itself."""

import copy
from pathlib import Path

import pytest
import torch
from helpers import small_model
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models import MobileNetV2
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmsnclr.api.classify import classify
from mmsnclr.checkpoints import Stored
from mmsnclr.datasets.labelled import LabelledImages
from mmsnclr.datasets.scan import Scan
from mmsnclr.engine.param_groups import build_optim_wrapper
from mmsnclr.recipes.classification import (
    fit_to_backbone,
    fit_to_images,
    load_classifier,
    random_start,
    read_start,
)

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8)
MOCO = VIT | dict(type='MoCoV3ViT', stop_grad_conv1=True)
KINDS = dict(
    resnet=dict(type='ResNet', depth=18, stem_channels=16, base_channels=16),
    vit=VIT,
    moco=MOCO,
    timm_resnet=dict(type='TIMMRepresentation', model_name='test_resnet'),
    timm_vit=dict(type='TIMMRepresentation', model_name='test_vit', img_size=32),
)


@pytest.mark.parametrize(('median', 'size'), [(500, 224), (100, 96), (20, 32)])
def test_the_size_follows_from_the_images_where_no_training_tells_it(median, size):
    paths = [Path(f'{number}.png') for number in range(4)]
    train = {path: 'ab'[number % 2] for number, path in enumerate(paths)}
    cfg = load_classifier()
    cfg.model.head = dict(type='LinearClsHead')
    settings = fit_to_images(
        cfg, LabelledImages(train, train, Scan(paths, edges=[median] * 4)), None
    )
    chosen = {setting.name: setting.value for setting in settings}
    assert chosen['size'] == str(size)
    assert cfg.train_dataloader.dataset.pipeline[0].views[0].size == size
    assert cfg.val_dataloader.dataset.pipeline[2].crop_size == size


def test_random_weights_alone_are_a_resnet_50():
    start = random_start()
    assert start.config == dict(type='ResNet', depth=50) and not start.pretrained
    assert random_start(start).network is start.network


def test_what_cannot_be_frozen_is_named():
    cfg = load_classifier()
    cfg.train_dataloader.dataset.pipeline[0].views[0].size = 32
    start = random_start()._replace(network=MobileNetV2(), config=dict(type='MobileNetV2'))
    with pytest.raises(ValueError, match='frozen=True: MobileNetV2 can only be fine-tuned'):
        fit_to_backbone(cfg, start, frozen=True)


@pytest.fixture
def pretrained(tmp_path):
    """Writes a checkpoint with a backbone of a kind."""

    def write(kind):
        model = small_model()
        model.backbone = KINDS[kind]
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            state = MODELS.build(copy.deepcopy(model)).state_dict()
        for value in state.values():
            if value.is_floating_point():
                value += 0.05 * torch.rand_like(value)  # timm's last norms are 0, and pass nothing
        views = dict(type='AugmentedViews', views=[dict(size=32)])
        loader = dict(dataset=dict(pipeline=[views]))
        meta = dict(cfg=Config(dict(model=model, train_dataloader=loader)).pretty_text)
        torch.save(dict(state_dict=state, meta=meta), tmp_path / f'{kind}.pth')
        return tmp_path / f'{kind}.pth'

    return write


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('frozen', [True, False])
def test_a_step_of_each_kind_moves_all_of_it_or_keeps_its_bits(kind, frozen, pretrained):
    start, cfg = read_start(pretrained(kind)), load_classifier()
    cfg.train_dataloader.dataset.pipeline[0].views[0].size = start.edge
    cfg.train_dataloader.batch_size, cfg.model.head.num_classes = 8, 3
    fit_to_backbone(cfg, start, frozen)
    model = MODELS.build(cfg.model)
    model.backbone.load_state_dict(start.network.state_dict())
    before = copy.deepcopy(model.state_dict())
    cfg.optim_wrapper.type = 'OptimWrapper'
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    samples = [DataSample().set_gt_label(n % 3) for n in range(8)]
    inputs = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    model.train_step(dict(inputs=inputs, data_samples=samples), wrapper)
    same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    if frozen:
        assert same == {key for key in before if key.startswith('backbone.')}
        return
    fixed = ('backbone.pos_embed', 'backbone.patch_embed') if kind == 'moco' else ()
    assert all(key.startswith(fixed) for key in same)
    assert type(wrapper.optimizer).__name__ == ('SGD' if 'resnet' in kind else 'AdamW')
    # The classifier of a ResNet is faster; of the ViTs those of timm have no rate by layer.
    rates = {group['lr'] for group in wrapper.optimizer.param_groups}
    assert len(wrapper.optimizer.param_groups) <= 3 * len(rates)  # by decay
    assert len(rates) == dict(resnet=2, timm_resnet=2, vit=4, moco=4, timm_vit=1)[kind]


def test_the_positions_of_moco_v3_stay_what_they_are_from_either_start(
    pretrained, digits, tmp_path
):
    settings = dict(size=32, epochs=1, workers=0, amp='off', compare='random')
    classify(digits / 'labelled', pretrained('moco'), tmp_path, **settings)
    before = Stored.read(tmp_path / 'init/backbone.pth').weights['pos_embed']
    fresh = MODELS.build(MOCO)
    fresh.init_weights()
    for start, positions in ((tmp_path, before), (tmp_path / 'random', fresh.pos_embed)):
        last = Stored.read(start / 'training/epoch_1.pth').weights['backbone.pos_embed']
        assert torch.equal(last, positions)


def test_a_vit_is_fitted_to_another_size(pretrained, digits, tmp_path):
    settings = dict(size=40, epochs=1, workers=0, amp='off')
    classify(digits / 'labelled', pretrained('vit'), tmp_path / 'out', **settings)
    cfg = Config.fromfile(tmp_path / 'out/config.py')
    assert cfg.model.backbone.img_size == 40
    with pytest.raises(ValueError, match='size=33 must be a multiple of 8'):
        classify(
            digits / 'labelled', pretrained('vit'), tmp_path / 'other', **settings | dict(size=33)
        )
