# What the detectors of `mmsnclr detect` have in common. Left out are files, classes, sizes,
# anchors, optimiser and the schedule's length: mmsnclr/recipes/detection.py fits them to backbone
# and set.
_base_ = 'mmdet::_base_/default_runtime.py'

custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)

# What the configs that inherit put in their places; no part of a training.
shared = dict(
    # Nothing is frozen and BN takes the batch's statistics, so that the same settings suit a
    # pretrained and a random backbone.
    backbone=dict(frozen_stages=-1, norm_eval=False),
    load=dict(type='LoadAnyImage'),
    load_boxes=dict(type='LoadAnnotations', with_bbox=True, with_mask=False),
    load_masks=dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    augment=[
        dict(type='RandomResize', ratio_range=(0.8, 1.25), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
    ],
    resize=dict(type='Resize', keep_ratio=True),
    pack=dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
)

train_dataloader = dict(
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='CocoDataset', filter_cfg=dict(filter_empty_gt=True)),
)
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', test_mode=True),
)
val_evaluator = dict(type='CocoMetric')
test_dataloader, test_evaluator = val_dataloader, val_evaluator

optim_wrapper = dict(type='OptimWrapper', clip_grad=dict(max_norm=10))
auto_scale_lr = dict(base_batch_size=16)  # that the learning rates of backbones are for
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False),
    dict(type='CosineAnnealingLR', by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
