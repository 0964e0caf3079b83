"""Mask R-CNN with all of the backbone and SyncBN trained.

tools/dist_train.sh configs/maskrcnn_snclr_syncbn_1x_coco.py 8

The setting in which self-supervised backbones are usually compared; the paper
names mmdet's standard one (maskrcnn_snclr_1x_coco.py).
"""

_base_ = 'maskrcnn_snclr_1x_coco.py'

model = _base_.trained_with_syncbn
