"""Fine-tuning on 10 % of ImageNet's labels.

tools/dist_train.sh configs/semisup_vit-b_8xb32_10pct.py 8

As semisup_vit-b_8xb32_1pct.py, from which it differs in its list of images alone.
"""

_base_ = 'semisup_vit-b_8xb32_1pct.py'

train_dataloader = dict(dataset=dict(ann_file='meta/train_10percent.txt'))
