"""Pilot of snclr_r50_100e.py, of which the paper leaves the temperature open: t = 1.0."""

_base_ = '../snclr_r50_100e.py'

model = dict(head=dict(loss=dict(temperature=1.0)))
