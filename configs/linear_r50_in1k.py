"""Linear evaluation of a ResNet-50 on ImageNet: tools/dist_train.sh configs/linear_r50_in1k.py 8

Another checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=PATH
"""

_base_ = [
    'mmpretrain::mocov3/benchmarks/resnet50_8xb128-linear-coslr-90e_in1k.py',
]

custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)
model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/snclr_r50_800e/epoch_800.pth')))
# 8 GPUs x 512 images = the paper's 4,096; lr = 0.1 x batch / 256, SGD without decay. The paper
# calls 0.1 the base rate; that it is for 256 images is MoCo v3's.
auto_scale_lr = dict(base_batch_size=4096)
train_dataloader = dict(batch_size=512)
optim_wrapper = dict(type='MixedPrecisionOptimWrapper', optimizer=dict(lr=1.6))
env_cfg = dict(cudnn_benchmark=True)
channels_last = True
