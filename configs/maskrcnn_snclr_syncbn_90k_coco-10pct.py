"""Mask R-CNN R50-FPN on 10 % of COCO's labels, 90,000 steps, with all trained and SyncBN.

tools/dist_train.sh configs/maskrcnn_snclr_syncbn_90k_coco-10pct.py 8

The labels that mmdet's split_coco.py draws (docs/reproduce.md), and as many images
as STAC (arXiv 2005.04757) and Soft Teacher (arXiv 2106.09018) train their supervised
detectors on: 180,000 steps of 8. Another draw: --cfg-options
train_dataloader.dataset.ann_file=semi_anns/instances_train2017.2@10.json
"""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::common/ms-poly-90k_coco-instance.py',
    '_base_/snclr_detection_backbone.py',
]

model = _base_.trained_with_syncbn
model.backbone.init_cfg = _base_.snclr_backbone.init_cfg
train_dataloader = dict(dataset=dict(ann_file='semi_anns/instances_train2017.1@10.json'))
