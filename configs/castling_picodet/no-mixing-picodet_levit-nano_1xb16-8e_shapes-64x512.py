"""The demo detector trained without token mixing: what attention is worth on the demo data.

python tools/train.py configs/castling_picodet/no-mixing-picodet_levit-nano_1xb16-8e_shapes-64x512.py

Measured here: AP50 88.7 (seed 0, commit 4c961e1; see docs/studies/token-mixing.md).
"""

_base_ = './castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='NoMixing')))
