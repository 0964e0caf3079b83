"""ResNet-50 as the authors' released code would have trained it; inferred, as it has no ResNet.

tools/dist_train.sh configs/snclr_r50_800e_released.py 32 --amp fp16

What the paper says of ResNet-50 holds here too: LARS and its rate, a warm-up of
10 epochs, a momentum coefficient fixed at 0.99, K, the set's length. All else is
that code's. Where its launch files, which are for ViT, pass other values, its
defaults are taken; where it says nothing, those of MoCo v3, on which it is built.
Those launch files let the coefficient rise to 1, as MoCo v3's for ResNet-50 do:

    --cfg-options model.end_momentum_coefficient=1.0

Left out is what configs/snclr_vit-s_300e_released.py leaves out too. Try the
temperature first, for 100 epochs: configs/ablations/r50_100e_t-*.py.
"""

_base_ = 'snclr_r50_800e.py'

temperature = 1.0  # inferred: the default, against 0.2 in the launch files for ViT
model = dict(
    # Inferred: MoCo v3's for ResNet, two layers each, of which the projector ends in a BN.
    neck=dict(with_last_bn=True, with_last_bn_affine=False),
    # Known: the loss, and its factor of 2 t.
    head=dict(loss=dict(form='sum_log', temperature=temperature, loss_weight=2 * temperature)),
    # Known: one set for each rank.
    queue=dict(sync=False),
)
# Known: neighbours from the first step.
custom_hooks = [dict(type='NeighborQueueHook', warmup_epochs=0), dict(type='ViewSeedHook')]
# Inferred: the default, against 0.1 in the launch files for ViT.
optim_wrapper = dict(optimizer=dict(weight_decay=1e-6))
# Known: torchvision's default for the crops; what does not fill a batch is left out.
train_pipeline = [
    dict(_base_.train_pipeline[0], interpolation='bilinear'),
    _base_.train_pipeline[1],
]
train_dataloader = dict(drop_last=True, dataset=dict(pipeline=train_pipeline))
