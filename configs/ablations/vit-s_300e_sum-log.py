"""Ablation of snclr_vit-s_300e.py: the released code's form of the loss alone."""

_base_ = '../snclr_vit-s_300e.py'

model = dict(head=dict(loss=dict(form='sum_log')))
