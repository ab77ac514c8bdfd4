"""The demo detector trained without token mixing: what attention is worth on the demo data."""

_base_ = './castling-picodet_levit-nano_1xb16-15e_shapes-160x160.py'

model = dict(backbone=dict(attn=dict(type='NoMixing')))
