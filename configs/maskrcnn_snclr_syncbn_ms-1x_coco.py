"""Mask R-CNN R50-FPN on COCO, 12 epochs at several sizes, with all trained and SyncBN.

tools/dist_train.sh configs/maskrcnn_snclr_syncbn_ms-1x_coco.py 8

The setting of MoCo (arXiv 1911.05722) for FPN, as mmpretrain has it for BYOL.
"""

_base_ = 'maskrcnn_snclr_syncbn_1x_coco.py'

train_pipeline = [*_base_.train_pipeline[:2], _base_.multi_scale, *_base_.train_pipeline[3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
