"""Castling-LeViT-128S with PicoDet from scratch on blood cells at 160 px: the recipe of the study.

python tools/train.py configs/castling_picodet/castling-picodet_levit-128s_1xb8-40e_bccd-160x160.py

Small enough for many runs on a CPU, ten minutes each on one thread. The learning rate is the one that
docs/studies/castling-detection.md found.
"""

_base_ = [
    '../_base_/models/castling-picodet_levit-128s.py',
    '../_base_/datasets/bccd_160x160.py',
    '../_base_/schedules/small_40e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(
                type='BatchSyncRandomResize',
                random_size_range=(128, 192),
                size_divisor=32,
                interval=1,
            )
        ]
    ),
    bbox_head=dict(num_classes=3),
    train_cfg=dict(initial_epoch=13),
)
optim_wrapper = dict(optimizer=dict(lr=0.016))
