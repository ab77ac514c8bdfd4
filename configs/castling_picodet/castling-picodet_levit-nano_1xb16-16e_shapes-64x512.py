"""The demo: a nano detector learns procedural scenes within minutes on two CPU cores.

python tools/make_shapes.py data/shapes
python tools/train.py configs/castling_picodet/castling-picodet_levit-nano_1xb16-16e_shapes-64x512.py

Its attention is the angular kernel's expansion divided by the number of keys, which on an earlier
version of the strips learnt the rule of the gems before the published form (docs/token-mixing.md).

Measured here: AP50 93.9, mAP 71.9 (seed 0, commit f3e0de5, two CPU cores, about nine minutes).
"""

_base_ = [
    '../_base_/models/castling-picodet_levit-128s.py',
    '../_base_/datasets/shapes_64x512.py',
    '../_base_/schedules/small_16e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        arch='nano',
        attn=dict(type='CastlingAttention', constant='mean', divide_by_keys=True),
    ),
    neck=dict(in_channels=[32, 64, 128, 192], out_channels=64),
    bbox_head=dict(num_classes=6, in_channels=64),
    train_cfg=dict(initial_epoch=3),
)
