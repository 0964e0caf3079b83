"""Mask R-CNN R50-C4 on COCO, 12 epochs at several sizes, with all trained and SyncBN.

tools/dist_train.sh configs/maskrcnn_snclr_c4_ms-1x_coco.py 8

The setting of MoCo (arXiv 1911.05722) and SimSiam (arXiv 2011.10566) for C4, as
mmpretrain has it for BYOL, only that the head's last stage is pretrained, too.
Another checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=PATH
model.roi_head.shared_head.init_cfg.0.override.checkpoint=PATH
"""

_base_ = [
    'mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py',
    '_base_/snclr_detection_backbone.py',
]

model = _base_.c4_trained_with_syncbn
train_pipeline = [*_base_.train_pipeline[:2], _base_.multi_scale, *_base_.train_pipeline[3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
