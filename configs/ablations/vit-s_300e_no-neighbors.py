"""Ablation of snclr_vit-s_300e.py: without neighbours (table 4; the paper reports 71.17 %)."""

_base_ = '../snclr_vit-s_300e.py'

# Longer than the training: the neighbours never join.
custom_hooks = [dict(type='NeighborQueueHook', warmup_epochs=301), dict(type='ViewSeedHook')]
