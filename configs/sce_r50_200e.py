"""SCE, ResNet-50, 200 epochs on SNCLR's data and schedule.

tools/dist_train.sh configs/sce_r50_200e.py 32

The method's basic form (arXiv 2111.14585): the second view, the target, is
augmented weakly by crop and flip. t, lambda and the queue's length are the
authors', t_m lies in their range. Their recipe for ImageNet differs in more:

- both views are targets and augmented strongly, and both targets' keys are
  enqueued; with `model.symmetric=True` the second view's alone are here;
- t_m = 0.07;
- the projector has three layers with a BN after the last, here two without;
- there is a predictor;
- the momentum coefficient starts at 0.99, here at 0.996;
- data, augmentation, batch, optimiser and schedule are their own, here SNCLR's.
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
