"""Mask R-CNN R50-FPN on LVIS v1, 12 epochs at several sizes, with all trained and SyncBN.

tools/dist_train.sh configs/maskrcnn_snclr_syncbn_ms-1x_lvis-v1.py 8

mmdet's config; MoCo (arXiv 1911.05722) reports mask AP, AP50 and AP75 on LVIS v0.5.
"""

_base_ = [
    'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py',
    '_base_/snclr_detection_backbone.py',
]

model = _base_.trained_with_syncbn
model.backbone.init_cfg = _base_.snclr_backbone.init_cfg
