"""SCE with four further crops, of the sizes that its authors use.

tools/dist_train.sh configs/sce_r50_200e_multicrop.py 32
"""

_base_ = 'sce_r50_200e.py'

large = dict(crop_scale=(0.2, 1.0))
small = dict(blur_prob=0.5, solarize_prob=0.2)
views = [
    dict(_base_.views[0], **large),
    dict(_base_.views[1], **large),
    dict(small, size=192, crop_scale=(0.172, 0.86)),
    dict(small, size=160, crop_scale=(0.143, 0.715)),
    dict(small, size=128, crop_scale=(0.114, 0.571)),
    dict(small, size=96, crop_scale=(0.086, 0.429)),
]
train_pipeline = [dict(type='AugmentedViews', views=views), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
