"""Mask R-CNN ViT-B/16 1x on COCO: tools/dist_train.sh configs/maskrcnn_snclr_vit-b_1x_coco.py 8"""

_base_ = 'maskrcnn_snclr_vit-s_1x_coco.py'

model = dict(
    backbone=dict(
        arch='deit-base', init_cfg=dict(checkpoint='work_dirs/snclr_vit-b_300e/epoch_300.pth')
    ),
    neck=dict(in_channels=768),
)
