"""The recipes of the detectors, fitted to a backbone and to a set of images with objects."""

import copy
import math
from collections.abc import Container
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict

from ..console import Setting, say
from ..datasets.coco import CocoSet, levels_of, objects_of
from ..models.feature_maps import fit_levels
from .detector_backbones import Backbone
from .pretraining import CONFIGS

_COCO_EPOCHS, _COCO_SHARE = 12, 10_000  # images from which on COCO's 12 epochs suffice
_LONGEST_SIDE = 1333
_BATCH = 4
_REGIONS_SIZE = 1000  # about the image size that mmdet's number of regions is for
_LEAST_RESIZED = 0.8  # of the size; by RandomResize
_GIVEN = 'as asked for'


def load_detector(masks: bool) -> Config:
    """Load the recipe of Mask R-CNN or, without masks, of Faster R-CNN, each with FPN.

    What is fitted to the set, the backbone and the run is left out.
    """
    cfg = Config.fromfile(CONFIGS / '_base_' / f'detect_{"mask" if masks else "faster"}-rcnn.py')
    cfg.pop('shared')
    return cfg


def fit_to_objects(
    cfg: Config,
    images: list[dict],
    objects: list[dict],
    size: int | None = None,
    flip: bool = True,
) -> list[Setting]:
    """Choose what follows from the size of the images and of their objects.

    Args:
        cfg: A recipe; changed in place.
        images: Those to learn from, in COCO's format.
        objects: Their annotations.
        size: Longer side of the training images in pixels, if the user has chosen.
        flip: Whether to mirror training images at random.

    Returns:
        What was chosen.

    Raises:
        ValueError: If there is no object.
    """
    if not objects:
        raise ValueError('no image of the training set has an annotation')
    sides = {image['id']: max(image['width'], image['height']) for image in images}
    why = _GIVEN
    if size is None:
        side = float(np.median(list(sides.values())))
        size = min(32 * math.ceil(side / 32), _LONGEST_SIDE)
        why = f'the median longer side of the images is {side:.0f} pixels'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for step in loader.dataset.pipeline:
            if step.type in ('RandomResize', 'Resize'):
                step.scale = (size, size)
            elif step.type == 'RandomFlip' and not flip:
                step.prob = 0.0
    boxes = [np.array(o['bbox'][2:]) * size / sides[o['image_id']] for o in objects]
    anchors = _fit_anchors(cfg.model.rpn_head.anchor_generator, np.array(boxes), size)
    return [Setting('size', str(size), why), anchors, _fit_regions(cfg.model, size)]


def leave_out_narrow(
    cfg: Config, train: CocoSet, val: CocoSet, skip_bad: bool = False
) -> tuple[CocoSet, CocoSet]:
    """Leave out, if asked to, images without height or width at the size they are resized to.

    Returns:
        The sets without them.

    Raises:
        ValueError: If there are such images, and they are not to be left out or are all.
    """
    (scale,) = (step.scale for step in cfg.val_dataloader.dataset.pipeline if 'scale' in step)
    kept = []
    for part in (train, val):
        images = part.content['images']
        narrow = {image['id']: image for image in images if _is_narrow(image, scale[0])}
        if narrow:
            first = next(iter(narrow.values()))
            text = (
                f'{len(narrow)} of {len(images)} images are narrower than a pixel at '
                f'size={scale[0]}, the first {first["file_name"]} of {first["width"]} x '
                f'{first["height"]} pixels'
            )
            if not skip_bad:
                raise ValueError(
                    f'{text}: cut them into pieces, pass a larger --size, or leave them out by '
                    '--skip-bad'
                )
            say(f'{text}: left out')
            part = part._replace(content=_without(part.content, narrow))
            if not objects_of(part.content)[1]:
                raise ValueError(f'{text}; no other has an object: pass a larger --size')
        kept.append(part)
    return kept[0], kept[1]


def _is_narrow(image: dict, size: int) -> bool:
    short, long = sorted((image['width'], image['height']))
    return int(_LEAST_RESIZED * size) * short / long < 0.5  # which mmcv rounds to 0


def _without(content: dict, images: Container[int | str]) -> dict:
    return content | dict(
        images=[image for image in content['images'] if image['id'] not in images],
        annotations=[a for a in content['annotations'] if a['image_id'] not in images],
    )


def _fit_anchors(generator: dict, boxes: np.ndarray, size: int) -> Setting:
    """Choose the anchors that overlap the boxes ``(N, 2)`` best, mmdet's being among them."""
    boxes = boxes[:: 1 + len(boxes) // 20_000]  # as good as all of them
    sides = np.array(generator['strides'])

    def quality(scale: float, ratios: list[float]) -> float:
        return _overlap(boxes, scale * sides, ratios)

    common = quality(generator['scales'][0], generator['ratios'])
    # The middle of each third: as many boxes are near to each ratio.
    ratios = np.quantile(boxes[:, 1] / boxes[:, 0], [1 / 6, 1 / 2, 5 / 6])
    ratios = sorted({round(float(ratio), 2) for ratio in ratios.clip(0.1, 10)})
    qualities = {float(s): quality(s, ratios) for s in np.geomspace(1, 16, 25).round(2)}
    scale, best = max(qualities.items(), key=lambda item: item[1])
    if best > common:
        if len(ratios) == 1 and _LEAST_RESIZED * size <= max(sides):
            # mmdet's RPN fails on a map of one cell with one anchor.
            ratios = [ratios[0] / 2, ratios[0], 2 * ratios[0]]
        generator.update(scales=[scale], ratios=ratios)
    chosen = ', '.join(f'{ratio:g}' for ratio in generator['ratios'])
    return Setting(
        'anchors',
        f'scale {generator["scales"][0]:g}, ratios {chosen}',
        f'they overlap the {size}-pixel boxes by an IoU of {max(best, common):.2f} on average, '
        f"mmdet's (8; 0.5, 1, 2) by {common:.2f}",
    )


def _overlap(boxes: np.ndarray, sides: np.ndarray, ratios: list[float]) -> float:
    """Mean over boxes of the best IoU with an anchor of the same centre."""
    root = np.sqrt(np.array(ratios))[None]
    sides = sides[:, None]
    anchors = np.stack([sides / root, sides * root], axis=-1).reshape(1, -1, 2)
    inter = np.minimum(boxes[:, None], anchors).prod(axis=2)
    union = boxes[:, None].prod(axis=2) + anchors.prod(axis=2) - inter
    return float((inter / union).max(axis=1).mean())


def _fit_regions(model: ConfigDict, size: int) -> Setting:
    """Choose how many regions of an image are learned from, and proposed."""
    most, proposed = model.train_cfg.rcnn.sampler.num, model.test_cfg.rpn.max_per_img
    # A power of 2, so that images of a similar size have the same.
    regions = 2 ** round(math.log2(most * (size / _REGIONS_SIZE) ** 2))
    regions = min(max(regions, 64), most)
    model.train_cfg.rcnn.sampler.num = regions
    for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        count = min(4 * regions, proposed)
        proposals.update(nms_pre=count, max_per_img=count)
    why = f"of each image to learn from: mmdet's {most} at {_REGIONS_SIZE} pixels, by the area"
    return Setting('regions', str(regions), why)


def fit_to_iterations(
    cfg: Config,
    images: int,
    iterations: int | None = None,
    epochs: float | None = None,
    batch: int | None = None,
    lr: float | None = None,
    processes: int = 1,
) -> list[Setting]:
    """Choose what follows from how long is trained.

    Args:
        cfg: A recipe; changed in place.
        images: How many images there are to learn from.
        iterations: Number of training steps, if the user has chosen.
        epochs: The same in passes over the images.
        batch: Images in a step, if the user has chosen.
        lr: Learning rate, if the user has chosen.
        processes: How many of them share a batch.

    Returns:
        What was chosen.
    """
    why_iterations = why_lr = why_batch = _GIVEN
    if batch is None:
        batch = processes * math.ceil(_BATCH / processes)
        why_batch = f'at least {_BATCH}'
    if iterations is None:
        epochs, why_iterations = _choose_epochs(images, epochs)
        iterations = max(2, math.ceil(epochs * images / batch))
    optimizer, for_batch = cfg.optim_wrapper.optimizer, cfg.auto_scale_lr.base_batch_size
    # The length of AdamW's steps does not depend on the gradient's.
    power, how = (1, 'in proportion') if optimizer.type == 'SGD' else (0.5, 'by the root')
    usual = optimizer.lr * (batch / for_batch) ** power
    if lr is None:
        lr = usual
        why_lr = f'{optimizer.lr:g} for {for_batch} images in a step, {how}'
    elif not usual / 5 <= lr <= 5 * usual:
        why_lr = f'{_GIVEN}, which is far from what {optimizer.type} has by default, {usual:g}'
    optimizer.lr = lr
    cfg.auto_scale_lr.base_batch_size = cfg.train_dataloader.batch_size = batch

    warmup = min(500, max(1, iterations // 10))
    linear, cosine = cfg.param_scheduler
    linear.end = cosine.begin = warmup
    cosine.update(T_max=iterations - warmup, end=iterations)
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.default_hooks.logger.interval = min(50, max(1, iterations // 10))
    cfg.default_hooks.checkpoint.interval = max(1, math.ceil(iterations / 4))
    return [
        Setting('iterations', str(iterations), why_iterations),
        Setting(
            'backbone',
            'all of it learns',
            'so that random weights are trained alike; BN takes the statistics of the batch',
        ),
        Setting('batch', str(batch), f'images in a step, {why_batch}'),
        Setting('lr', str(lr), why_lr),
    ]


def _choose_epochs(images: int, epochs: float | None) -> tuple[float, str]:
    """The number of passes over the images, and why."""
    if epochs is not None:
        return epochs, f'{epochs:g} epochs of {images} annotated images, {_GIVEN}'
    epochs = _COCO_EPOCHS * max(1.0, math.sqrt(_COCO_SHARE / images))
    return epochs, (
        f'{epochs:.0f} epochs of {images} annotated images; COCO has {_COCO_EPOCHS}, a set of '
        f'fewer than {_COCO_SHARE:,} images has more, by the square root'
    )


def fit_to_files(
    cfg: Config, train: CocoSet, val: CocoSet, workers: int = 2, seed: int = 0
) -> None:
    """Set the files, the classes, black and white, the processes that load images, and the seed."""
    cfg.randomness = dict(seed=seed)
    categories = train.content['categories']
    metainfo = dict(  # without a palette mmdet takes COCO's 80 colours
        classes=tuple(category['name'] for category in categories),
        category_ids=tuple(category['id'] for category in categories),
    )
    for name, part in dict(train=train, val=val, test=val).items():
        loader = cfg[f'{name}_dataloader']
        loader.update(num_workers=workers, persistent_workers=workers > 0)
        prefix = dict(img=str(part.images))
        loader.dataset.update(ann_file=str(part.file), data_prefix=prefix, metainfo=metainfo)
        if levels_of(train.content):
            loader.dataset.pipeline[0].levels = levels_of(train.content)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(val.file)
    for name in ('bbox_head', 'mask_head'):
        if name in cfg.model.roi_head:
            cfg.model.roi_head[name].num_classes = len(categories)


def fit_to_backbone(cfg: Config, backbone: Backbone) -> list[Setting]:
    """Put a backbone in, and make what follows it as wide and as fine as suits it.

    Args:
        cfg: A recipe; changed in place.
        backbone: What it is to start from.

    Returns:
        What was chosen that is not the recipe's.
    """
    model, width = cfg.model, backbone.neck['out_channels']
    preprocessing = dict(backbone.preprocessing)
    if preprocessing:
        preprocessing['bgr_to_rgb'] = preprocessing.pop('to_rgb')
    model.data_preprocessor.update(preprocessing)
    of_recipe = model.backbone if model.backbone.type == backbone.config['type'] else {}
    model.backbone = dict(of_recipe) | backbone.config | dict(init_cfg=backbone.init_cfg)
    fit_levels(model, backbone.neck, backbone.strides, backbone.divisor)

    heads = model.roi_head
    model.rpn_head.update(in_channels=width, feat_channels=width)
    heads.bbox_roi_extractor.out_channels = width
    heads.bbox_head.update(in_channels=width, fc_out_channels=4 * width)
    if 'mask_head' in heads:
        heads.mask_roi_extractor.out_channels = width
        heads.mask_head.update(in_channels=width, conv_out_channels=width)
    cfg.optim_wrapper.update(copy.deepcopy(backbone.optim_wrapper))
    levels = ', '.join(f'{stride:g}' for stride in backbone.strides)
    one = backbone.neck['type'] == 'SimpleFeaturePyramid'
    reason = "what the backbone's one map suits (ViTDet)" if one else "all of the backbone's maps"
    return [
        Setting('neck', f'{backbone.neck["type"]}, strides {levels}', reason),
        _tell_optimizer(backbone),
    ]


def _tell_optimizer(backbone: Backbone) -> Setting:
    kind = backbone.optim_wrapper['optimizer']['type']
    decay = backbone.optim_wrapper.get('paramwise_cfg', {}).get('layer_decay_rate')
    reason = 'what such backbones are usually trained with'
    if decay:
        reason += f", each layer of the backbone learns at {decay} of the next one's rate"
    elif backbone.config['type'] == 'ResNet':
        reason = 'ahead of SGD on few images' if kind == 'AdamW' else 'as the run began'
    return Setting('optimizer', kind, reason)


def fit_to_run(cfg: Config, work_dir: Path) -> None:
    """Set where a run writes; it is resumed if there is something to resume from.

    ``work_dir`` is not the folder of the config, which the runner would write over.
    """
    cfg.work_dir, cfg.resume, cfg.share_batch = str(work_dir), True, True
    # A process may have few images; mmengine joins BN's statistics on GPUs alone.
    cfg.sync_bn = 'torch'
    # A name of its own: two runs in one process would share one visualizer.
    cfg.visualizer.name = f'visualizer of {work_dir}'
