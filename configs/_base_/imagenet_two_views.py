# ImageNet without labels, in the two groups of augmentations of BYOL.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32_byol.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='SeededMultiView',
        num_views=[1, 1],
        transforms=[_base_.view_pipeline1, _base_.view_pipeline2],
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, num_workers=8, dataset=dict(pipeline=train_pipeline))
