# Put this file beside an mmdet config with a ResNet-50 in `_base_`, and the backbone is SNCLR's:
# model = dict(backbone=_base_.snclr_backbone)
custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)
snclr_backbone = dict(
    init_cfg=dict(
        _delete_=True,
        type='Pretrained',
        checkpoint='work_dirs/snclr_r50_800e/epoch_800.pth',
        prefix='backbone.',
    )
)
# The other setting that is usual for self-supervised backbones: nothing is frozen, BN statistics
# are those of the global batch, and the new layers have BN too.
_sync = dict(type='SyncBN', requires_grad=True)
trained_with_syncbn = dict(
    backbone=dict(frozen_stages=-1, norm_cfg=_sync, norm_eval=False),
    neck=dict(norm_cfg=_sync),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=_sync),
        mask_head=dict(norm_cfg=_sync),
    ),
)
