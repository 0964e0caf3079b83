"""NNCLR, ResNet-50, 200 epochs on SNCLR's data and schedule.

tools/dist_train.sh configs/nnclr_r50_200e.py 32

Set length and temperature are NNCLR's (98,304 and 0.1).
"""

_base_ = 'snclr_r50_200e.py'

model = dict(
    type='NNCLR',
    head=dict(neighbors=1, loss=dict(temperature=0.1)),
    queue=dict(length=98_304),
    momentum_coefficient=0.0,  # keys come from the online weights
)
custom_hooks = [dict(type='NeighborQueueHook', warmup_epochs=0), dict(type='ViewSeedHook')]
