"""maskrcnn_snclr_c4_ms-1x_coco.py for 24 epochs.

tools/dist_train.sh configs/maskrcnn_snclr_c4_ms-2x_coco.py 8
"""

_base_ = 'maskrcnn_snclr_c4_ms-1x_coco.py'

warmup, falls = _base_.param_scheduler
param_scheduler = [warmup, dict(falls, end=24, milestones=[16, 22])]
train_cfg = dict(max_epochs=24)
