"""SNCLR, ResNet-50, 200 epochs of ImageNet: tools/dist_train.sh configs/snclr_r50_200e.py 32"""

_base_ = 'snclr_r50_800e.py'

warmup, cosine = _base_.param_scheduler
max_epochs = 200
param_scheduler = [warmup, dict(cosine, end=max_epochs, T_max=max_epochs - warmup.end)]
train_cfg = dict(max_epochs=max_epochs)
