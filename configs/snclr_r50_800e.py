"""SNCLR, ResNet-50, 800 epochs of ImageNet: tools/dist_train.sh configs/snclr_r50_800e.py 32

The paper reports 75.3 % top-1 in linear evaluation (table 1a).
"""

_base_ = [
    '_base_/snclr_r50.py',
    '_base_/imagenet_two_views.py',
    '_base_/default_runtime.py',
]

# 32 GPUs x 128 images; lr = 0.3 x batch / 256.
auto_scale_lr = dict(base_batch_size=4096)
optim_wrapper = dict(
    type='MixedPrecisionOptimWrapper',
    # BYOL's weight decay, whose recipe the paper follows; it gives none itself.
    # TIMMLars adapts what is decayed: neither norms nor biases.
    optimizer=dict(type='TIMMLars', lr=4.8, momentum=0.9, weight_decay=1.5e-6),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
warmup_epochs = 10
max_epochs = 800
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 4.8,
        end=warmup_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        begin=warmup_epochs,
        end=max_epochs,
        T_max=max_epochs - warmup_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
