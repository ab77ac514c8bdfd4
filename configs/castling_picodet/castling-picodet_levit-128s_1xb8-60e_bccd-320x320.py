"""Castling-LeViT-128S with PicoDet from scratch on blood cells (BCCD) at 320 px.

python tools/train.py configs/castling_picodet/castling-picodet_levit-128s_1xb8-60e_bccd-320x320.py

Measured here: 57.8 mAP, 88.9 AP50 (seed 0, commit bafc887, older code, 35 minutes of one CPU thread; see README.md).
"""

_base_ = [
    '../_base_/models/castling-picodet_levit-128s.py',
    '../_base_/datasets/bccd_320x320.py',
    '../_base_/schedules/small_60e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(
                type='BatchSyncRandomResize',
                random_size_range=(256, 384),
                size_divisor=32,
                interval=1,
            )
        ]
    ),
    bbox_head=dict(num_classes=3),
    train_cfg=dict(initial_epoch=20),
)
