"""SwAV on SNCLR's data and schedule.

tools/dist_train.sh configs/baselines/swav_r50_200e.py 32

Two views, as for the other methods. At a batch of 4,096 SwAV needs no queue, and its
prototypes rest for the first epoch, which has 313 steps.
"""

_base_ = [
    'mmpretrain::swav/swav_resnet50_8xb32-mcrop-coslr-200e_in1k-224px-96px.py',
    '../_base_/baseline_r50_200e.py',
]

model = dict(head=dict(loss=dict(num_crops=[2])))
train_dataloader = _base_.same_data
optim_wrapper = _base_.same_optimizer
param_scheduler = _base_.same_schedule
train_cfg = _base_.same_epochs
auto_scale_lr = _base_.same_batch
swav = dict(_base_.custom_hooks[0], batch_size=128, queue_length=0)
swav['frozen_layers_cfg'] = dict(prototypes=313)
custom_hooks = [swav, _base_.view_seed]
env_cfg = _base_.same_env
default_hooks = _base_.same_checkpoints
randomness = _base_.same_seed
