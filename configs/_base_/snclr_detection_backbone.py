# Put this file beside an mmdet config with a ResNet-50 in `_base_`, and the backbone is SNCLR's:
# model = dict(backbone=_base_.snclr_backbone)
custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)
_checkpoint = 'work_dirs/snclr_r50_800e/epoch_800.pth'
snclr_backbone = dict(
    init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=_checkpoint, prefix='backbone.')
)
# The other setting that is usual for self-supervised backbones: nothing is frozen, BN statistics
# are those of the global batch, and the new layers have BN too.
_sync = dict(type='SyncBN', requires_grad=True)
_trained = dict(frozen_stages=-1, norm_cfg=_sync, norm_eval=False)
trained_with_syncbn = dict(
    backbone=_trained,
    neck=dict(norm_cfg=_sync),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=_sync),
        mask_head=dict(norm_cfg=_sync),
    ),
)
# The same for mmdet's C4 detectors, whose backbones are Caffe's: images as in pretraining, strides
# in the 3x3 convolutions, and a norm after the last stage, which the head has (MoCo, arXiv
# 1911.05722). That stage starts from the checkpoint, too, so another checkpoint is set twice.
c4_trained_with_syncbn = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(_trained, **snclr_backbone, style='pytorch'),
    roi_head=dict(
        shared_head=dict(
            type='ResLayerExtraNorm',
            norm_cfg=_sync,
            norm_eval=False,
            style='pytorch',
            init_cfg=[
                dict(
                    type='Constant',
                    layer='_BatchNorm',
                    val=1,
                    override=dict(
                        type='Pretrained',
                        name='layer4',
                        checkpoint=_checkpoint,
                        prefix='backbone.layer4.',
                    ),
                )
            ],
        )
    ),
)
# In the place of the one size of mmdet's COCO configs.
multi_scale = dict(
    type='RandomChoiceResize',
    scales=[(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768), (1333, 800)],
    keep_ratio=True,
)
