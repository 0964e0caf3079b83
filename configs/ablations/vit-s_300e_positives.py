"""Ablation of snclr_vit-s_300e.py: neighbours on the positives only (table 7)."""

_base_ = '../snclr_vit-s_300e.py'

model = dict(head=dict(loss=dict(neighbors_in='positives')))
