"""Mask R-CNN R50-FPN 1x on COCO: tools/dist_train.sh configs/maskrcnn_snclr_1x_coco.py 8

mmdet's standard settings (8 x 2 images, stem and first stage and BN statistics
frozen), only that the backbone is SNCLR's. The paper reports +1.0 box AP and
+1.0 mask AP over the supervised backbone (table 3).
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='work_dirs/snclr_r50_800e/epoch_800.pth',
            prefix='backbone.',
        )
    )
)
