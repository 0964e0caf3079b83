"""Faster R-CNN R50-C4 on Pascal VOC, trainval of 2007 and 2012, 24,000 steps.

tools/dist_train.sh configs/fasterrcnn_snclr_c4_24k_voc0712.py 8

The setting of MoCo (arXiv 1911.05722), BYOL (arXiv 2006.07733) and SimSiam (arXiv
2011.10566). On test2007 `pascal_voc/mAP` is what they call AP, the mean over IoU
of 0.5 to 0.95, each by VOC's 11 points, as detectron2 has it; beside it AP50, AP75.
Another checkpoint: as for maskrcnn_snclr_c4_ms-1x_coco.py.
"""

_base_ = [
    'mmdet::pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py',
    '_base_/snclr_detection_backbone.py',
]

model = _base_.c4_trained_with_syncbn
# The two years differ in this, which mmdet's own config forgets.
train_dataloader = dict(dataset=dict(ignore_keys=['dataset_type']))
warmup, falls = _base_.param_scheduler
param_scheduler = [warmup, dict(falls, end=24_000, milestones=[18_000, 22_000])]
train_cfg = dict(max_iters=24_000)
val_evaluator = dict(iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
test_evaluator = val_evaluator
