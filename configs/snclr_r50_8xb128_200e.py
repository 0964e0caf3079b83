"""SNCLR, ResNet-50, for one machine of 8 GPUs.

tools/dist_train.sh configs/snclr_r50_8xb128_200e.py 8

What changes with a batch of 1,024 instead of 4,096, and what does not:

- the learning rate, linearly: 0.3 x batch / 256;
- the momentum coefficient, 0.99 ** (1 / 4), so that the momentum encoder
  forgets as much over as many images;
- not the candidate set: its length counts images, and the two above keep the
  age of its features, in images and in drift of the encoder, what it was;
- the negatives of a step, with no remedy: 1,024 x 31. Accumulating gradients
  changes the size of an optimiser step and adds none, as keys and neighbours
  are compared within a batch.
"""

_base_ = 'snclr_r50_200e.py'

model = dict(momentum_coefficient=0.99 ** (1 / 4))
auto_scale_lr = dict(base_batch_size=1024)
optim_wrapper = dict(optimizer=dict(lr=1.2))
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-6 / 1.2),
    _base_.param_scheduler[1],
]
