# SNCLR with ResNet-50 (paper: Sec. 4.1 and appendix A).
model = dict(
    type='SNCLR',
    data_preprocessor=dict(
        type='ViewsDataPreprocessor',
        non_blocking=True,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='ResNet',
        depth=50,
        norm_cfg=dict(type='SyncBN'),
        # MoCo v3's start, which large batches want; the paper's torchvision has False by default.
        zero_init_residual=True,
    ),
    neck=dict(type='SNCLRNeck', in_channels=2048, hid_channels=4096, out_channels=256),
    head=dict(
        type='SNCLRHead',
        neighbors=30,
        predictor=dict(type='SNCLRNeck', in_channels=256, hid_channels=4096, out_channels=256),
        # The paper leaves the temperature open; 0.2 is that of the released code's launch files,
        # which are for ViT; its default is 1.0. configs/ablations/r50_100e_t-*.py: both, and 0.1.
        loss=dict(type='SNCLRLoss', temperature=0.2),
    ),
    queue=dict(type='NeighborQueue', length=128_000, dim=256),
    momentum_coefficient=0.99,
    channels_last=True,
)
# The paper leaves m open; neighbours come in when the learning rate has warmed up.
custom_hooks = [dict(type='NeighborQueueHook', warmup_epochs=10), dict(type='ViewSeedHook')]
