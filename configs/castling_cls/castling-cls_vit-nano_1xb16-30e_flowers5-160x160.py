"""Castling-ViT-nano from random weights on five kinds of flowers at 160 px.

python tools/train.py configs/castling_cls/castling-cls_vit-nano_1xb16-30e_flowers5-160x160.py

No Mixup and no CutMix: 30 epochs are short. The rate was not tuned. Status: not run; 15 epochs
of it are in docs/studies/castling-classification/vit.md.
"""

_base_ = [
    '../_base_/models/castling-cls_deit-tiny.py',
    '../_base_/datasets/flowers5_160x160.py',
    '../_base_/schedules/small_30e.py',
    '../_base_/runtimes/classification.py',
]

num_classes = 5
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=dict(arch='nano', pos_grid=10),
    head=dict(num_classes=num_classes, in_channels=128),
    train_cfg=None,
)
