"""Linear evaluation of a ViT-S/16 on ImageNet: tools/dist_train.sh configs/linear_vit-s_in1k.py 8

Another checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=PATH
"""

_base_ = 'linear_r50_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        out_type='cls_token',
        frozen_stages=12,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/snclr_vit-s_300e/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    neck=None,
    head=dict(in_channels=384),
)
# 8 GPUs x 512 images = the paper's 4,096; lr = 3 x batch / 256.
optim_wrapper = dict(optimizer=dict(lr=48.0))
