"""SNCLR, ViT-B/16, 100 epochs of ImageNet: tools/dist_train.sh configs/snclr_vit-b_100e.py 32"""

_base_ = 'snclr_vit-b_300e.py'

warmup, cosine = _base_.param_scheduler
max_epochs = 100
param_scheduler = [warmup, dict(cosine, end=max_epochs, T_max=max_epochs - warmup.end)]
train_cfg = dict(max_epochs=max_epochs)
