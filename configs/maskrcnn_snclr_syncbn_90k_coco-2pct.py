"""maskrcnn_snclr_syncbn_90k_coco-10pct.py with 2 % of COCO's labels.

tools/dist_train.sh configs/maskrcnn_snclr_syncbn_90k_coco-2pct.py 8
"""

_base_ = 'maskrcnn_snclr_syncbn_90k_coco-10pct.py'

train_dataloader = dict(dataset=dict(ann_file='semi_anns/instances_train2017.1@2.json'))
