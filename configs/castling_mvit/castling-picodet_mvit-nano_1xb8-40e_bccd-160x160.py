"""Castling-MViTv2-nano with PicoDet from scratch on blood cells at 160 px.

python tools/train.py configs/castling_mvit/castling-picodet_mvit-nano_1xb8-40e_bccd-160x160.py

The rate was not tuned. Measured here once, seed 0: box AP 40.4.
"""

_base_ = [
    '../_base_/models/castling-picodet_mvit-tiny.py',
    '../_base_/datasets/bccd_160x160.py',
    '../_base_/schedules/small_40e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    backbone=dict(arch='nano', pos_grid=40),
    neck=dict(in_channels=[64, 128, 256], out_channels=96),
    bbox_head=dict(num_classes=3, in_channels=96, stacked_convs=2),
    train_cfg=dict(initial_epoch=13),
)
