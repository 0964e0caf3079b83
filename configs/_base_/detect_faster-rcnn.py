# Faster R-CNN, for a set with boxes alone.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'detect.py']

model = dict(backbone=_base_.shared.backbone)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            _base_.shared.load,
            _base_.shared.load_boxes,
            *_base_.shared.augment,
            _base_.shared.pack,
        ]
    )
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            _base_.shared.load,
            _base_.shared.resize,
            _base_.shared.load_boxes,
            _base_.shared.pack,
        ]
    )
)
val_evaluator = dict(metric=['bbox'])
test_dataloader, test_evaluator = val_dataloader, val_evaluator
