# Mask R-CNN, for a set whose objects all have masks.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'detect.py']

model = dict(backbone=_base_.shared.backbone)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            _base_.shared.load,
            _base_.shared.load_masks,
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
            _base_.shared.load_masks,
            _base_.shared.pack,
        ]
    )
)
val_evaluator = dict(metric=['bbox', 'segm'])
test_dataloader, test_evaluator = val_dataloader, val_evaluator
