"""SNCLR on images of 32 x 32 pixels, a ResNet-18 of width 16, on one CPU core.

benchmarks/cifar10.py compares methods with it; docs/evidence.md says what came out.
"""

_base_ = '../_base_/default_runtime.py'

view = dict(
    size=24,
    crop_scale=(0.2, 1.0),
    blur_prob=0.0,
)
train_pipeline = [dict(type='AugmentedViews', views=[view, view]), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=256,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='CustomDataset', data_root='data/cifar10/train', pipeline=train_pipeline),
)
width = 16
projector = dict(type='SNCLRNeck', in_channels=8 * width, hid_channels=512, out_channels=128)
model = dict(
    type='SNCLR',
    data_preprocessor=dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7], to_rgb=True),
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=width,
        base_channels=width,
        strides=(2, 2, 2, 2),
        norm_cfg=dict(type='BN'),
    ),
    neck=projector,
    head=dict(
        type='SNCLRHead',
        neighbors=20,
        predictor=dict(projector, in_channels=128),
        loss=dict(type='SNCLRLoss', temperature=0.1),
    ),
    queue=dict(type='NeighborQueue', length=8192, dim=128),
    momentum_coefficient=0.99,
    channels_last=True,
)
warmup_epochs = 20
max_epochs = 30
custom_hooks = [
    dict(type='NeighborQueueHook', warmup_epochs=warmup_epochs),
    dict(type='ViewSeedHook'),
]
optim_wrapper = dict(
    type='MixedPrecisionOptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
)
param_scheduler = dict(
    type='CosineAnnealingLR',
    begin=warmup_epochs,
    end=max_epochs,
    T_max=max_epochs - warmup_epochs,
    by_epoch=True,
    convert_to_iter_based=True,
)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=39), checkpoint=dict(interval=1))
