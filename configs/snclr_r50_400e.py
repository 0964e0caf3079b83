"""SNCLR, ResNet-50, 400 epochs of ImageNet: tools/dist_train.sh configs/snclr_r50_400e.py 32

The paper reports 74.5 % top-1 in linear evaluation (table 1a).
"""

_base_ = 'snclr_r50_800e.py'

warmup, cosine = _base_.param_scheduler
max_epochs = 400
param_scheduler = [warmup, dict(cosine, end=max_epochs, T_max=max_epochs - warmup.end)]
train_cfg = dict(max_epochs=max_epochs)
