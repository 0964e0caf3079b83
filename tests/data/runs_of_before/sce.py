"""SCE on a small ViT, a set for each rank: what the checkpoint in sce/ was made by."""

_base_ = 'snclr.py'

arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
views = [
    dict(size=16, crop_scale=(0.5, 1.0)),
    dict(size=16, crop_scale=(0.8, 1.0), jitter_prob=0, gray_prob=0, blur_prob=0),
]
model = dict(
    type='SCE',
    backbone=dict(_delete_=True, type='VisionTransformer', arch=arch, img_size=16, patch_size=4),
    head=dict(_delete_=True, type='SCEHead'),
    neck=dict(in_channels=16),
    queue=dict(sync=False),
    end_momentum_coefficient=1.0,
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[dict(type='AugmentedViews', views=views), dict(type='PackInputs')],
    ),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.1))
