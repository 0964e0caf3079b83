"""The supervised row of maskrcnn_snclr_syncbn_1x_coco.py."""

_base_ = 'maskrcnn_supervised_1x_coco.py'

model = _base_.trained_with_syncbn
