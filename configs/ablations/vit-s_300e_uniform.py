"""Ablation of snclr_vit-s_300e.py: all weights 1 (table 4; the paper reports 72.24 %)."""

_base_ = '../snclr_vit-s_300e.py'

model = dict(head=dict(positiveness='uniform'))
