"""The demo detector trained without token mixing: what attention is worth on the demo data.

python tools/train.py configs/castling_picodet/no-mixing-picodet_levit-nano_1xb16-15e_shapes-160x160.py

Measured here: AP50 73.9 (seed 0, commit ba86eca; see docs/token-mixing.md).
"""

_base_ = './castling-picodet_levit-nano_1xb16-15e_shapes-160x160.py'

model = dict(backbone=dict(attn=dict(type='NoMixing')))
