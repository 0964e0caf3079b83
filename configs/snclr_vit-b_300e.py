"""SNCLR, ViT-B/16, 300 epochs of ImageNet: tools/dist_train.sh configs/snclr_vit-b_300e.py 32

The paper reports 76.8 % top-1 in linear evaluation (table 1b).
"""

_base_ = 'snclr_vit-s_300e.py'

model = dict(backbone=dict(arch='deit-base'), neck=dict(in_channels=768))
