"""The config of a detector, its size and schedule chosen by the set that it is trained on."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from ..backbones.naming import mmdet_resnet
from ..console import Setting

# FPN's strides and mmdet's ratios for them: what the chosen anchors are compared with.
_STRIDES = (4, 8, 16, 32, 64)
_COMMON_SCALE, _COMMON_RATIOS = 8.0, (0.5, 1.0, 2.0)
_COCO_EPOCHS, _COCO_SHARE = 12, 10_000  # images from which on COCO's 12 epochs suffice
_LR, _LR_BATCH = 0.02, 16  # mmdet's learning rate for SGD, and the batch that it is for
_MAX_SIZE = 1333
_REGIONS, _REGIONS_SIZE = 512, 1000  # mmdet's regions for an image, and about its image size


class Backbone(NamedTuple):
    """A backbone that a detector can start from.

    Attributes:
        config: Its config in mmdet's words.
        preprocessing: ``mean``, ``std`` and ``to_rgb``; may be empty.
        init_cfg: How it is filled; ``None`` leaves it random.
    """

    config: dict
    preprocessing: dict
    init_cfg: dict | None


def detector_backbone(cfg: dict, preprocessing: dict, checkpoint: str | Path) -> Backbone:
    """The backbone of a checkpoint as one for FPN.

    Args:
        cfg: Config of the backbone that the checkpoint has.
        preprocessing: How its images were normalised.
        checkpoint: The checkpoint.

    Returns:
        The backbone, filled from the checkpoint.

    Raises:
        ValueError: If it is not a ResNet.
    """
    prefix, name = 'backbone.', cfg.get('model_name', '')
    depth = name.removeprefix('resnet')
    if depth in ('18', '34', '50', '101', '152'):  # timm's, whose weights are named alike
        prefix, cfg = 'backbone.timm_model.', dict(type='ResNet', depth=int(depth))
    if cfg['type'].rpartition('.')[2] != 'ResNet':
        raise ValueError(
            f'backbone {name or cfg["type"]} of {checkpoint}: the detector is built on ResNets, '
            'whose four stages FPN takes; pass the checkpoint of a ResNet'
        )
    init_cfg = dict(type='Pretrained', checkpoint=str(Path(checkpoint).resolve()), prefix=prefix)
    return Backbone(mmdet_resnet(cfg), preprocessing, init_cfg)


def derive_schedule(
    content: dict,
    size: int | None = None,
    iterations: int | None = None,
    epochs: float | None = None,
    batch: int = 4,
    lr: float | None = None,
    flip: bool = True,
) -> tuple[dict[str, Any], list[Setting]]:
    """Size, anchors and schedule for a set.

    Args:
        content: The training set in COCO's format.
        size: Longer side of the training images, in pixels.
        iterations: Number of training steps.
        epochs: The same in passes over the images.
        batch: Images in a step.
        lr: Learning rate.
        flip: Whether to mirror images at random.

    Returns:
        ``size``, ``scale`` and ``ratios`` of the anchors, ``regions`` of an
        image to learn from, ``batch``, ``lr``, ``flip``, ``iterations`` and
        ``warmup``; and the choices to print.

    Raises:
        ValueError: If an option is out of range or nothing is annotated.
    """
    with_objects = {ann['image_id'] for ann in content['annotations'] if not ann['iscrowd']}
    images = {image['id']: image for image in content['images'] if image['id'] in with_objects}
    if not images:
        raise ValueError('no image of the training set has an annotation')
    limits = (('size', size, 32), ('iterations', iterations, 2), ('batch', batch, 2))
    for name, value, lowest in limits:
        if value is not None and value < lowest:
            raise ValueError(f'{name}={value} must be at least {lowest}')
    if iterations is not None and epochs is not None:
        raise ValueError('iterations and epochs say the same: pass one of them')
    count = len(images)
    choices = []

    def choose(name: str, given: Any, value: Any, reason: str) -> Any:
        value = value if given is None else given
        choices.append(Setting(name, str(value), reason if given is None else 'as asked for'))
        return value

    side = float(np.median([max(i['width'], i['height']) for i in images.values()]))
    size = choose(
        'size',
        size,
        min(32 * math.ceil(side / 32), _MAX_SIZE),
        f'the median longer side of the images is {side:.0f} pixels',
    )
    scale, ratios, quality, common = _anchors(content, images, size)
    choices.append(
        Setting(
            'anchors',
            f'scale {scale:g}, ratios {", ".join(f"{r:g}" for r in ratios)}',
            f'they overlap the {size}-pixel boxes by an IoU of {quality:.2f} on average, '
            f"mmdet's (8; 0.5, 1, 2) by {common:.2f}",
        )
    )
    # A power of 2, so that images of a similar size have the same.
    regions = 2 ** round(math.log2(_REGIONS * (size / _REGIONS_SIZE) ** 2))
    regions = min(max(regions, 64), _REGIONS)
    reason = (
        f"of each image to learn from: mmdet's {_REGIONS} at {_REGIONS_SIZE} pixels, by the area"
    )
    choices.append(Setting('regions', str(regions), reason))
    if epochs is None:
        epochs = _COCO_EPOCHS * max(1.0, math.sqrt(_COCO_SHARE / count))
        why = f'{epochs:.0f} epochs of {count} annotated images; COCO has 12, a set of fewer than '
        why += f'{_COCO_SHARE:,} images has more, by the square root'
    else:
        why = f'{epochs:g} epochs of {count} annotated images, as asked for'
    iterations = choose('iterations', iterations, max(2, math.ceil(epochs * count / batch)), why)
    choices.append(
        Setting(
            'backbone',
            'all of it learns',
            'so that random weights are trained alike; BN takes the statistics of the batch',
        )
    )
    choices.append(Setting('batch', str(batch), 'images in a step of one process'))
    why = f"mmdet's {_LR} for {_LR_BATCH} images in a step, in proportion"
    lr = choose('lr', lr, _LR * batch / _LR_BATCH, why)
    warmup = min(500, max(1, iterations // 10))
    settings = dict(size=size, scale=scale, ratios=ratios, regions=regions, batch=batch, lr=lr)
    return settings | dict(flip=flip, iterations=iterations, warmup=warmup), choices


def _anchors(content: dict, images: dict, size: int) -> tuple[float, list[float], float, float]:
    """Scale and ratios of the anchors, how well they fit, and how well mmdet's do."""
    boxes = np.array(
        [
            np.array(ann['bbox'][2:]) * size / max(image['width'], image['height'])
            for ann in content['annotations']
            if not ann['iscrowd'] and (image := images[ann['image_id']])
        ]
    )
    boxes = boxes[:: 1 + len(boxes) // 20_000]  # as good as all of them
    # The middle of each third: as many boxes are near to each ratio.
    ratios = np.quantile(boxes[:, 1] / boxes[:, 0], [1 / 6, 1 / 2, 5 / 6])
    ratios = sorted({round(float(ratio), 2) for ratio in ratios.clip(0.1, 10)})
    scales = np.geomspace(1, 16, 25).round(2)
    qualities = [_overlap(boxes, scale, ratios) for scale in scales]
    common = _overlap(boxes, _COMMON_SCALE, _COMMON_RATIOS)
    best = int(np.argmax(qualities))
    if qualities[best] <= common:
        return _COMMON_SCALE, list(_COMMON_RATIOS), common, common
    return float(scales[best]), ratios, qualities[best], common


def _overlap(boxes: np.ndarray, scale: float, ratios: Any) -> float:
    """Mean over boxes of the best IoU with an anchor of the same centre."""
    side = scale * np.array(_STRIDES)[:, None]
    root = np.sqrt(np.array(ratios))[None]
    anchors = np.stack([side / root, side * root], axis=-1).reshape(1, -1, 2)
    inter = np.minimum(boxes[:, None], anchors).prod(axis=2)
    union = boxes[:, None].prod(axis=2) + anchors.prod(axis=2) - inter
    return float((inter / union).max(axis=1).mean())


def detector_config(
    backbone: Backbone,
    settings: dict[str, Any],
    categories: list[dict],
    masks: bool,
    train: tuple[Path, Path],
    val: tuple[Path, Path],
    work_dir: Path,
    workers: int = 2,
    seed: int = 0,
) -> Config:
    """Config of Mask R-CNN, or of Faster R-CNN, with FPN.

    Nothing of the backbone is frozen and BN takes the batch's statistics, so
    that the same settings suit a pretrained and a random backbone.

    Args:
        backbone: What the detector starts from.
        settings: What :func:`derive_schedule` gave.
        categories: The classes, as in the annotation file.
        masks: Whether to learn masks.
        train: Annotation file and image folder to train on.
        val: The same to validate on.
        work_dir: Where logs and checkpoints go; not the folder of
            the config, which the runner would write over.
        workers: Processes that load images.
        seed: Seed of everything random.

    Returns:
        The overrides of mmdet's base configs, which :func:`config_text` writes out.
    """
    resnet = backbone.config
    base = resnet['base_channels'] * (1 if resnet['depth'] < 50 else 4)
    width = min(256, max(64, 4 * resnet['base_channels']))
    classes = tuple(category['name'] for category in categories)
    head = dict(in_channels=width, num_classes=len(classes))
    roi_head = dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(head, fc_out_channels=4 * width),
    )
    if masks:
        roi_head |= dict(
            mask_roi_extractor=dict(out_channels=width),
            mask_head=dict(head, conv_out_channels=width),
        )
    preprocessing = dict(backbone.preprocessing)
    if preprocessing:
        preprocessing['bgr_to_rgb'] = preprocessing.pop('to_rgb')
    anchors = dict(scales=[settings['scale']], ratios=settings['ratios'])
    count = 4 * settings['regions']
    proposals = dict(nms_pre=min(count, 1000), max_per_img=min(count, 1000))
    model = dict(
        data_preprocessor=preprocessing,
        backbone=resnet | dict(frozen_stages=-1, norm_eval=False, init_cfg=backbone.init_cfg),
        neck=dict(in_channels=[base * 2**stage for stage in range(4)], out_channels=width),
        rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=anchors),
        roi_head=roi_head,
        train_cfg=dict(rpn_proposal=proposals, rcnn=dict(sampler=dict(num=settings['regions']))),
        test_cfg=dict(rpn=proposals),
    )
    if backbone.init_cfg is not None:
        model['backbone']['init_cfg'] = dict(_delete_=True, **backbone.init_cfg)
    side = (settings['size'],) * 2
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    ]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    augment = [
        dict(type='RandomResize', scale=side, ratio_range=(0.8, 1.25), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5 if settings['flip'] else 0.0),
        dict(type='PackDetInputs', meta_keys=keys),
    ]
    resize = [
        dict(type='Resize', scale=side, keep_ratio=True),
        dict(type='PackDetInputs', meta_keys=keys),
    ]
    # Without a palette mmdet takes COCO's 80 colours.
    metainfo = dict(classes=classes, category_ids=tuple(c['id'] for c in categories))

    def loader(source: tuple[Path, Path], pipeline: list[dict], **options: Any) -> dict:
        dataset = dict(
            type='CocoDataset',
            ann_file=str(source[0]),
            data_prefix=dict(img=str(source[1])),
            metainfo=metainfo,
            pipeline=pipeline,
        )
        return dict(
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=options.pop('sampler'),
            dataset=dataset | options.pop('dataset'),
            **options,
        )

    iterations, warmup = settings['iterations'], settings['warmup']
    val_loader = loader(
        val,
        load[:1] + resize[:1] + load[1:] + resize[1:],
        batch_size=1,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(test_mode=True),
    )
    evaluator = dict(
        type='CocoMetric',
        ann_file=str(val[0]),
        metric=['bbox', 'segm'] if masks else ['bbox'],
    )
    return Config(
        dict(
            custom_imports=dict(imports=['mmsnclr'], allow_failed_imports=False),
            work_dir=str(work_dir),
            model=model,
            train_dataloader=loader(
                train,
                load + augment,
                batch_size=settings['batch'],
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(filter_cfg=dict(filter_empty_gt=True)),
            ),
            val_dataloader=val_loader,
            test_dataloader=val_loader,
            val_evaluator=evaluator,
            test_evaluator=evaluator,
            train_cfg=dict(
                type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations
            ),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='SGD', lr=settings['lr'], momentum=0.9, weight_decay=1e-4),
                clip_grad=dict(max_norm=10),
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=warmup),
                dict(
                    type='CosineAnnealingLR',
                    by_epoch=False,
                    T_max=iterations - warmup,
                    begin=warmup,
                    end=iterations,
                ),
            ],
            auto_scale_lr=dict(base_batch_size=settings['batch']),
            default_hooks=dict(
                logger=dict(interval=min(50, max(1, iterations // 10))),
                checkpoint=dict(
                    by_epoch=False, interval=max(1, math.ceil(iterations / 4)), max_keep_ckpts=1
                ),
            ),
            # A name of its own: two runs in one process would share one visualizer.
            visualizer=dict(name=f'visualizer of {work_dir}'),
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=seed),
            resume=True,  # if there is something to resume from
        )
    )


def config_text(config: Config, masks: bool, head: str) -> str:
    """A detector's config as a file that `tools/train.py` runs.

    Args:
        config: What :func:`detector_config` gave.
        masks: Whether to learn masks.
        head: What the file's docstring says.

    Returns:
        The file's content.
    """
    kind = 'mask-rcnn' if masks else 'faster-rcnn'
    base = [f'mmdet::_base_/models/{kind}_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
    return f'"""{head}\n"""\n\n_base_ = {base!r}\n\n{config.pretty_text}'
