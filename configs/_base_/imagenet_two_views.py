# ImageNet without labels, in the two groups of augmentations of BYOL.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32_byol.py'

train_pipeline = [
    dict(
        type='AugmentedViews',
        views=[dict(blur_prob=1.0), dict(blur_prob=0.1, solarize_prob=0.2)],
    ),
    dict(type='PackInputs'),
]
# The same from mmpretrain's own transforms, several times slower:
# train_dataloader = dict(dataset=dict(pipeline=_base_.stock_pipeline))
stock_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='SeededMultiView',
        num_views=[1, 1],
        transforms=[_base_.view_pipeline1, _base_.view_pipeline2],
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128, num_workers=8, pin_memory=True, dataset=dict(pipeline=train_pipeline)
)
