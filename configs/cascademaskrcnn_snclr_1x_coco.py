"""Cascade Mask R-CNN R50-FPN 1x on COCO.

tools/dist_train.sh configs/cascademaskrcnn_snclr_1x_coco.py 8
"""

_base_ = [
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    '_base_/snclr_detection_backbone.py',
]

model = dict(backbone=_base_.snclr_backbone)
