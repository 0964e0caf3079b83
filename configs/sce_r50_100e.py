"""SCE, ResNet-50, 100 epochs: tools/dist_train.sh configs/sce_r50_100e.py 32"""

_base_ = 'sce_r50_200e.py'

warmup, cosine = _base_.param_scheduler
max_epochs = 100
param_scheduler = [warmup, dict(cosine, end=max_epochs, T_max=max_epochs - warmup.end)]
train_cfg = dict(max_epochs=max_epochs)
