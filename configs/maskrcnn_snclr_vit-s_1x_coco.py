"""Mask R-CNN ViT-S/16 1x on COCO: tools/dist_train.sh configs/maskrcnn_snclr_vit-s_1x_coco.py 8

mmdet's schedule and images; backbone, neck, heads and optimiser as ViTDet has them (arXiv
2203.16527): attention in windows of 14 patches and four global layers, a simple feature pyramid,
LN in the heads, AdamW with a rate that falls by 0.7 from layer to layer, drop path 0.1. Its rate of
1e-4 is for 64 images in a step; at the 16 of this schedule mmdet's transformers have the same.
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)
ln = dict(type='mmpretrain.LN2d', eps=1e-6)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ViTFeatures',
        arch='deit-small',
        img_size=224,  # of the pretraining; positions are resized to each image
        patch_size=16,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/snclr_vit-s_300e/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(
        _delete_=True, type='SimpleFeaturePyramid', in_channels=384, out_channels=256, num_outs=5
    ),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=ln),
        mask_head=dict(norm_cfg=ln),
    ),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.1),
    constructor='BackboneLayerDecay',
    paramwise_cfg=dict(
        layer_decay_rate=0.7, norm_decay_mult=0.0, custom_keys=dict(pos_embed=dict(decay_mult=0.0))
    ),
)
