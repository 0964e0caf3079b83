# ViT's schedule: AdamW, 32 GPUs x 128 images, lr = 1.5e-4 x batch / 256 (paper: appendix A).
auto_scale_lr = dict(base_batch_size=4096)
optim_wrapper = dict(
    type='MixedPrecisionOptimWrapper',
    optimizer=dict(type='AdamW', lr=2.4e-3, weight_decay=0.1),
)
warmup_epochs = 40
max_epochs = 300
param_scheduler = [
    dict(
        type='LinearLR',
        # The paper names no start for ViT; R50's 1e-6.
        start_factor=1e-6 / 2.4e-3,
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
