"""What `mmsnclr classify` chooses of itself."""

from pathlib import Path

import pytest
from mmpretrain.models import MobileNetV2

from mmsnclr.datasets.labelled import LabelledImages
from mmsnclr.datasets.scan import Scan
from mmsnclr.recipes.classification import (
    fit_to_backbone,
    fit_to_images,
    load_classifier,
    random_start,
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
