"""Ablation of snclr_vit-s_300e.py: 50 neighbours (table 4; the grid is ours)."""

_base_ = '../snclr_vit-s_300e.py'

model = dict(head=dict(neighbors=50))
