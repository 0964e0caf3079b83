"""Linear evaluation of a ViT-B/16 on ImageNet: tools/dist_train.sh configs/linear_vit-b_in1k.py 8

Another checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=PATH
"""

_base_ = 'linear_vit-s_in1k.py'

model = dict(
    backbone=dict(
        arch='deit-base', init_cfg=dict(checkpoint='work_dirs/snclr_vit-b_300e/epoch_300.pth')
    ),
    head=dict(in_channels=768),
)
