"""The row without pretraining of maskrcnn_snclr_syncbn_1x_coco.py."""

_base_ = 'maskrcnn_random_1x_coco.py'

model = _base_.trained_with_syncbn
