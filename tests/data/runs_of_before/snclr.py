"""SNCLR on two stages of a narrow ResNet-18: what the checkpoint in snclr/ was made by."""

_base_ = '../../../configs/demo/snclr_digits.py'

features = dict(in_channels=8, hid_channels=16, out_channels=8)
model = dict(
    backbone=dict(
        stem_channels=4,
        base_channels=4,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
    ),
    neck=dict(in_channels=8, hid_channels=16, out_channels=8),
    head=dict(neighbors=4, predictor=features),
    queue=dict(length=32, dim=8),
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='digits/unlabelled'),
)
custom_hooks = [
    dict(type='NeighborQueueHook', warmup_epochs=1),
    dict(type='ViewSeedHook'),
]
optim_wrapper = dict(type='OptimWrapper')
param_scheduler = dict(T_max=3)
train_cfg = dict(max_epochs=3)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=3))
log_processor = dict(window_size=1)
