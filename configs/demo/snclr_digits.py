"""SNCLR on the demo's unlabelled digits, a ResNet-18 of width 16: make demo"""

_base_ = '../_base_/default_runtime.py'

image_size = 64
views = [
    dict(type='RandomResizedCrop', scale=image_size, crop_ratio_range=(0.5, 1.0)),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root='work_dirs/demo/digits/unlabelled',
        with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='SeededMultiView', num_views=[2], transforms=[views]),
            dict(type='PackInputs'),
        ],
    ),
)
backbone = dict(
    type='ResNet',
    depth=18,
    stem_channels=16,
    base_channels=16,
    norm_cfg=dict(type='BN'),
)
model = dict(
    type='SNCLR',
    data_preprocessor=dict(mean=[80.0] * 3, std=[40.0] * 3, to_rgb=True),
    backbone=backbone,
    neck=dict(type='SNCLRNeck', in_channels=128, hid_channels=512, out_channels=128),
    head=dict(
        type='SNCLRHead',
        neighbors=20,
        predictor=dict(type='SNCLRNeck', in_channels=128, hid_channels=512, out_channels=128),
        loss=dict(type='SNCLRLoss', temperature=0.1),
    ),
    queue=dict(type='NeighborQueue', length=2048, dim=128),
    momentum_coefficient=0.99,
    channels_last=True,
)
max_epochs = 32
custom_hooks = [
    dict(type='NeighborQueueHook', warmup_epochs=16),
    dict(type='ViewSeedHook'),
]
optim_wrapper = dict(
    type='MixedPrecisionOptimWrapper',
    optimizer=dict(type='SGD', lr=0.06, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(
    type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=31), checkpoint=dict(interval=1, max_keep_ckpts=1))
