"""Fine-tuning a ViT-B/16 on 1 % of ImageNet's labels.

tools/dist_train.sh configs/semisup_vit-b_8xb32_1pct.py 8

As semisup_vit-s_8xb32_1pct.py.
"""

_base_ = 'semisup_vit-s_8xb32_1pct.py'

model = dict(
    backbone=dict(
        arch='deit-base', init_cfg=dict(checkpoint='work_dirs/snclr_vit-b_300e/epoch_300.pth')
    ),
    head=dict(in_channels=768),
)
