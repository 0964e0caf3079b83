"""Pilot of snclr_r50_100e.py, of which the paper leaves the temperature open: t = 0.1."""

_base_ = '../snclr_r50_100e.py'

model = dict(head=dict(loss=dict(temperature=0.1)))
