"""SNCLR, ViT-S/16, 300 epochs of ImageNet: tools/dist_train.sh configs/snclr_vit-s_300e.py 32

The paper reports 73.4 % top-1 in linear evaluation (table 1b).
"""

_base_ = [
    '_base_/snclr_vit-s.py',
    '_base_/imagenet_two_views.py',
    '_base_/adamw_300e.py',
    '_base_/default_runtime.py',
]
