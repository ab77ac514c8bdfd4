"""The demo detector trained without token mixing: the control of the demo.

python tools/train.py configs/castling_picodet/no-mixing-picodet_levit-nano_1xb16-8e_shapes-64x512.py

Measured here: AP50 92.7 (seed 0; see docs/studies/token-mixing.md): PicoDet sees far enough by itself.
"""

_base_ = './castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='NoMixing')))
