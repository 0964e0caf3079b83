"""The supervised row of maskrcnn_snclr_1x_coco.py: mmdet's own config, as it is."""

_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '_base_/snclr_detection_backbone.py']
