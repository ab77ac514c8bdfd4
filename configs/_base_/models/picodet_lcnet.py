"""PicoDet-S of 2022.03: LCNet at scale 0.75 below the neck and head that Castling-LeViT has too.

LCNet ends at stride 32; the neck makes the stride 64 level. Scale 0.35 is -XS, 1.5 -M, 2.0 -L.
"""

_base_ = './castling-picodet_levit-128s.py'

model = dict(
    backbone=dict(_delete_=True, type='LCNet', scale=0.75),
    neck=dict(in_channels=[96, 192, 384]),
)
