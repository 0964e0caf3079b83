# SNCLR with ViT-S/16, which is DeiT-S (paper: Sec. 4.1 and appendix A).
_base_ = 'snclr_r50.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        out_type='cls_token',
    ),
    neck=dict(in_channels=384),
    # Gradients of the patch projection spike, which costs accuracy without any sign in the loss
    # (MoCo v3, arXiv 2104.02057, Sec. 4); both launch files of the released code freeze it too.
    frozen_patch_embed=True,
)
# The paper leaves m open; neighbours come in when the learning rate has warmed up.
custom_hooks = [dict(type='NeighborQueueHook', warmup_epochs=40), dict(type='ViewSeedHook')]
