"""The row without pretraining of maskrcnn_snclr_1x_coco.py.

Nothing is frozen: random weights and statistics are no use as they are.
"""

_base_ = 'maskrcnn_supervised_1x_coco.py'

model = dict(
    backbone=dict(
        init_cfg=None,
        frozen_stages=-1,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=False,
    )
)
