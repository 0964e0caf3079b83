"""Linear evaluation of a timm model on ImageNet: tools/dist_train.sh configs/linear_timm_in1k.py 8

Another model: --cfg-options model.backbone.model_name=convnext_tiny model.head.in_channels=768
"""

_base_ = 'linear_vit-s_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TIMMRepresentation',
        model_name='vit_small_patch16_224',
        frozen=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/snclr_timm_300e/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
)
