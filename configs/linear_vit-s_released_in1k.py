"""Linear evaluation of ViT-S as the authors' released code trains it, with its 12 heads.

tools/dist_train.sh configs/linear_vit-s_released_in1k.py 8
"""

_base_ = 'linear_vit-s_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MoCoV3ViT',
        arch='mocov3-small',
        img_size=224,
        patch_size=16,
        out_type='cls_token',
        frozen_stages=12,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/snclr_vit-s_300e_released/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
)
