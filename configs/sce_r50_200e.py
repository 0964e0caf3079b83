"""SCE, ResNet-50, 200 epochs on SNCLR's data and schedule.

tools/dist_train.sh configs/sce_r50_200e.py 32

The second view, the target, is augmented weakly: crop and flip. Temperatures,
lambda and queue are the authors' (arXiv 2111.14585, which reports 72.1 % top-1 at
100 epochs, and 75.4 % at 200 with multi-crop).
"""

_base_ = 'snclr_r50_200e.py'

model = dict(
    type='SCE',
    head=dict(
        _delete_=True, type='SCEHead', temperature=0.1, target_temperature=0.05, contrast=0.5
    ),
    queue=dict(length=65_536),
    momentum_coefficient=0.996,
    end_momentum_coefficient=1.0,
)
weak_view = dict(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
views = [dict(blur_prob=0.5), weak_view]
train_pipeline = [dict(type='AugmentedViews', views=views), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = [dict(type='NeighborQueueHook', warmup_epochs=0), dict(type='ViewSeedHook')]
