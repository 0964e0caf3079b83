"""Mask R-CNN R50-FPN 2x on COCO: tools/dist_train.sh configs/maskrcnn_snclr_2x_coco.py 8"""

_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py', '_base_/snclr_detection_backbone.py']

model = dict(backbone=_base_.snclr_backbone)
