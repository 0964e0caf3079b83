"""Fine-tuning on 1 % of ImageNet's labels.

tools/dist_train.sh configs/semisup_vit-s_8xb32_1pct.py 8

The list of images comes first (tools/dataset_converters/imagenet_subset.py). The
paper gives no recipe but names the works that it follows; this is that of Barlow
Twins' code: SGD, batch 256, 20 epochs, rates of 0.002 and, for the classifier, 0.5.
"""

_base_ = 'linear_vit-s_in1k.py'

model = dict(backbone=dict(frozen_stages=-1))
train_dataloader = dict(
    batch_size=32,
    dataset=dict(split='', ann_file='meta/train_1percent.txt', data_prefix='train'),
)
auto_scale_lr = dict(base_batch_size=256)
optim_wrapper = dict(
    optimizer=dict(lr=0.002), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=250.0)))
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=20, by_epoch=True, end=20)]
train_cfg = dict(max_epochs=20)
