"""Mask R-CNN with a timm model 1x on COCO.

tools/dist_train.sh configs/maskrcnn_snclr_timm_1x_coco.py 8

After configs/snclr_timm_300e.py with --cfg-options model.backbone.model_name=convnext_tiny, whose
checkpoint it reads. Another model: --cfg-options model.backbone.model_name=regnety_032
model.backbone.init_cfg.checkpoint=CHECKPOINT; the tools make the neck follow its maps. mmdet's
schedule and images; AdamW as its Swin has it.
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='TIMMFeatures',
        model_name='convnext_tiny',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/snclr_timm_300e/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(
        in_channels=[96, 192, 384, 768],
        norm_cfg=dict(type='mmpretrain.LN2d', eps=1e-6),  # the maps have no norm of their own
    ),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
