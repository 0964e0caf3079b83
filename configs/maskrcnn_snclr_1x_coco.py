"""Mask R-CNN R50-FPN 1x on COCO: tools/dist_train.sh configs/maskrcnn_snclr_1x_coco.py 8

mmdet's standard settings (8 x 2 images, stem and first stage and BN statistics
frozen), only that the backbone is SNCLR's. The paper reports +1.0 box AP and
+1.0 mask AP over the supervised backbone (table 3). Its row of 200 epochs:
--cfg-options model.backbone.init_cfg.checkpoint=work_dirs/snclr_r50_200e/epoch_200.pth
"""

_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '_base_/snclr_detection_backbone.py']

model = dict(backbone=_base_.snclr_backbone)
