"""Mask R-CNN R50-FPN on Cityscapes, 64 epochs, with all trained and SyncBN.

tools/dist_train.sh configs/maskrcnn_snclr_syncbn_1x_cityscapes.py 8

mmdet's config, only that nothing but the backbone is pretrained: not the rest of a
detector on COCO. MoCo (arXiv 1911.05722) reports mask AP and AP50.
"""

_base_ = [
    'mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py',
    '_base_/snclr_detection_backbone.py',
]

load_from = None
model = _base_.trained_with_syncbn
model.backbone.init_cfg = _base_.snclr_backbone.init_cfg
auto_scale_lr = dict(base_batch_size=8)  # mmdet's rate is for a batch of 8, not 16
