"""SNCLR, ResNet-50, for one GPU: tools/dist_train.sh configs/snclr_r50_1xb256_200e.py 1

A batch of 256. What changes is said in snclr_r50_8xb128_200e.py.
"""

_base_ = 'snclr_r50_200e.py'

model = dict(momentum_coefficient=0.99 ** (1 / 16))
train_dataloader = dict(batch_size=256)
auto_scale_lr = dict(base_batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=0.3))
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-6 / 0.3),
    _base_.param_scheduler[1],
]
