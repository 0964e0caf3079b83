"""Fine-tuning a timm model on 1 % of ImageNet's labels.

tools/dist_train.sh configs/semisup_timm_8xb32_1pct.py 8

As semisup_vit-s_8xb32_1pct.py; on 10 %: --cfg-options
train_dataloader.dataset.ann_file=meta/train_10percent.txt
"""

_base_ = 'semisup_vit-s_8xb32_1pct.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TIMMRepresentation',
        model_name='vit_small_patch16_224',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/snclr_timm_300e/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
)
