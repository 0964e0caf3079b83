"""SCE with six further crops of 96 pixels.

tools/dist_train.sh configs/sce_r50_200e_multicrop.py 32
"""

_base_ = 'sce_r50_200e.py'

large = dict(crop_scale=(0.14, 1.0))
small = dict(size=96, crop_scale=(0.05, 0.14), blur_prob=0.5)
views = [dict(_base_.views[0], **large), dict(_base_.views[1], **large)] + [small] * 6
train_pipeline = [dict(type='AugmentedViews', views=views), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
