"""Linear evaluation of the demo's backbone."""

_base_ = '../_base_/default_runtime.py'

pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
data = dict(
    type='CustomDataset',
    data_root='work_dirs/demo/digits/labelled',
    data_prefix='train',
    pipeline=pipeline,
)
train_dataloader = dict(
    batch_size=256,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=data,
)
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(data, data_prefix='val'),
)
val_evaluator = dict(type='Accuracy', topk=1)
val_cfg = dict()
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, val_cfg

data_preprocessor = dict(num_classes=10, mean=[80.0] * 3, std=[40.0] * 3, to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        norm_cfg=dict(type='BN'),
        frozen_stages=4,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/demo/snclr/epoch_32.pth', prefix='backbone.'
        ),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=128),
)
max_epochs = 20
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.5, momentum=0.9))
param_scheduler = dict(
    type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1), health=None)
