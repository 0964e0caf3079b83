"""Ablation of snclr_vit-s_300e.py: parametric f1 and f2 in Eq. 4 (the paper: inferior)."""

_base_ = '../snclr_vit-s_300e.py'

model = dict(head=dict(projection='linear'))
