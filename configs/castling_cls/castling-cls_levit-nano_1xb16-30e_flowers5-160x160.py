"""Castling-LeViT-nano from random weights on five kinds of flowers at 160 px.

python tools/train.py configs/castling_cls/castling-cls_levit-nano_1xb16-30e_flowers5-160x160.py

Measured here, seed 0: 66.2 %. Three seeds and other rates: docs/studies/castling-classification/levit.md.
"""

_base_ = [
    '../_base_/models/castling-cls_levit-nano.py',
    '../_base_/datasets/flowers5_160x160.py',
    '../_base_/schedules/small_30e.py',
    '../_base_/runtimes/classification.py',
]

num_classes = 5
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    head=dict(num_classes=num_classes),
)
