"""PicoDet-S with its own backbone on blood cells (BCCD): what Castling-LeViT has to beat there.

The recipe of `castling-picodet_levit-128s_1xb8-60e_bccd-320x320`, from scratch. Status: not run.

    python tools/train.py configs/castling_picodet/picodet-s_lcnet_1xb8-60e_bccd-320x320.py
"""

_base_ = './castling-picodet_levit-128s_1xb8-60e_bccd-320x320.py'

model = dict(
    backbone=dict(_delete_=True, type='LCNet', scale=0.75),
    neck=dict(in_channels=[96, 192, 384]),
)
