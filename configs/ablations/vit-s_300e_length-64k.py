"""Ablation of snclr_vit-s_300e.py: a candidate set of 64,000 (table 5; the lengths are ours)."""

_base_ = '../snclr_vit-s_300e.py'

model = dict(queue=dict(length=64_000))
