"""Recipes of detectors, fitted to a set."""

import numpy as np
import pytest

from mmsnclr.datasets.coco import objects_of
from mmsnclr.recipes.detection import (
    fit_to_backbone,
    fit_to_iterations,
    fit_to_objects,
    load_detector,
)
from mmsnclr.recipes.detector_backbones import random_backbone


def test_the_schedule_and_anchors_follow_the_set():
    def of(count, box):
        images = [dict(id=i, width=640, height=480) for i in range(count)]
        boxes = [dict(image_id=i, iscrowd=0, bbox=[0, 0, *box]) for i in range(count)]
        learned, objects = objects_of(dict(images=images, annotations=boxes))
        cfg = load_detector(masks=True)
        fit_to_backbone(cfg, random_backbone())
        chosen = fit_to_objects(cfg, learned, objects) + fit_to_iterations(cfg, len(learned))
        return cfg, cfg.model.rpn_head.anchor_generator, chosen

    small, anchors, choices = of(100, (20, 40))
    assert anchors.ratios == [2.0]
    for loader in (small.train_dataloader, small.val_dataloader, small.test_dataloader):
        (scale,) = (step.scale for step in loader.dataset.pipeline if 'scale' in step)
        assert scale == (640, 640)
    assert small.train_cfg.max_iters == 12 * 10 * 100 / 4  # ten times COCO's epochs for a hundredth
    assert small.optim_wrapper.optimizer.lr == 5e-4 / 2  # AdamW's, by the root of 4 / 16
    assert small.model.train_cfg.rcnn.sampler.num == 256
    assert [choice.name for choice in choices] == [
        'size',
        'anchors',
        'regions',
        'iterations',
        'backbone',
        'batch',
        'lr',
    ]
    # An anchor of one of the levels is of the boxes' size.
    sides = anchors.scales[0] * np.array(anchors.strides)
    assert min(abs(np.log2(sides / np.sqrt(20 * 40)))) < 0.1
    large, anchors, _ = of(20_000, (200, 200))
    assert large.train_cfg.max_iters == 12 * 20_000 / 4
    assert anchors.ratios == [1.0]


def test_small_images_have_several_anchors_though_their_boxes_are_alike():
    for size, ratios in ((64, [0.5, 1, 2]), (128, [1])):
        images = [dict(id=i, width=size, height=size) for i in range(4)]
        boxes = [dict(image_id=i, bbox=[0, 0, 24, 24]) for i in range(4)]
        cfg = load_detector(masks=False)
        fit_to_objects(cfg, images, boxes)
        assert cfg.model.rpn_head.anchor_generator.ratios == ratios


@pytest.mark.parametrize(
    ('lr', 'reason'),
    [
        (3e-4, 'as asked for'),
        (0.02, 'as asked for, which is far from what AdamW has by default, 0.00025'),
    ],
)
def test_a_rate_that_suits_another_optimiser_is_told(lr, reason):
    cfg = load_detector(masks=False)
    fit_to_backbone(cfg, random_backbone())
    *_, chosen = fit_to_iterations(cfg, 100, lr=lr)
    assert chosen == ('lr', str(lr), reason)
    assert cfg.optim_wrapper.optimizer.lr == lr
