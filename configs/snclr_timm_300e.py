"""SNCLR with a timm model: tools/dist_train.sh configs/snclr_timm_300e.py 32

Another model: --cfg-options model.backbone.model_name=convnext_tiny
"""

_base_ = 'snclr_vit-s_300e.py'

model = dict(
    backbone=dict(_delete_=True, type='TIMMRepresentation', model_name='vit_small_patch16_224'),
    neck=dict(in_channels=None),  # taken from the backbone
)
