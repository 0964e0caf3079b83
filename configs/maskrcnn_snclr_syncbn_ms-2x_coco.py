"""maskrcnn_snclr_syncbn_ms-1x_coco.py for 24 epochs.

tools/dist_train.sh configs/maskrcnn_snclr_syncbn_ms-2x_coco.py 8
"""

_base_ = 'maskrcnn_snclr_2x_coco.py'

model = _base_.trained_with_syncbn
train_pipeline = [*_base_.train_pipeline[:2], _base_.multi_scale, *_base_.train_pipeline[3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
