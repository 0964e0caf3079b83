# The classifier of `mmsnclr classify`. Left out are files, classes, size, the schedule's length and
# the backbone with its optimiser: mmsnclr/recipes/classification.py fits them to the user's set.
_base_ = 'default_runtime.py'

model = dict(
    type='ImageClassifier',
    # ImageNet's, for a backbone that does not say its own.
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    ),
    head=dict(type='LinearClsHead'),
)
train_dataloader = dict(
    drop_last=True,  # a last batch of one image has no statistics for BN
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageList',
        pipeline=[
            dict(
                type='AugmentedImage', views=[dict(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)]
            ),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=64,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageList',
        test_mode=True,
        pipeline=[
            dict(type='ReadImage'),
            dict(type='ResizeEdge', edge='short'),
            dict(type='CenterCrop'),
            dict(type='PackInputs'),
        ],
    ),
)
val_evaluator = [dict(type='Accuracy'), dict(type='SingleLabelMetric')]
test_dataloader, test_evaluator = val_dataloader, val_evaluator

optim_wrapper = dict(type='MixedPrecisionOptimWrapper', clip_grad=dict(max_norm=5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [dict(type='ViewSeedHook')]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1), health=None)
