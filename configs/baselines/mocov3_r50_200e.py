"""MoCo v3 on SNCLR's data and schedule.

tools/dist_train.sh configs/baselines/mocov3_r50_200e.py 32
"""

_base_ = [
    'mmpretrain::mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py',
    '../_base_/baseline_r50_200e.py',
]

model = dict(backbone=dict(zero_init_residual=True))  # as for the other methods
train_dataloader = _base_.same_data
optim_wrapper = _base_.same_optimizer
param_scheduler = _base_.same_schedule
train_cfg = _base_.same_epochs
auto_scale_lr = _base_.same_batch
custom_hooks = [_base_.view_seed]
env_cfg = _base_.same_env
default_hooks = _base_.same_checkpoints
randomness = _base_.same_seed
