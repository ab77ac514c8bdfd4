"""Mask2Former-nano with Castling-MViTv2-nano from random weights on CamVid at 256x192 px.

python tools/train.py configs/castling_mvit/castling-mask2former-nano_mvit-nano_1xb4-1500i_camvid-192x256.py

The rate is that of ViT-nano (docs/studies/castling-segmentation.md), not tuned for this one. Measured here once, seed 0: mIoU 42.0.
"""

_base_ = [
    '../_base_/models/castling-mask2former-nano_mvit-nano.py',
    '../_base_/datasets/camvid_192x256.py',
    '../_base_/schedules/small_1500i.py',
    '../_base_/runtimes/segmentation.py',
]

num_classes = 11
model = dict(
    data_preprocessor=dict(size=(192, 256)),
    backbone=dict(pos_grid=64),
    decode_head=dict(
        num_classes=num_classes,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
    ),
    test_cfg=dict(crop_size=(192, 256), stride=(128, 170)),
)
optim_wrapper = dict(optimizer=dict(lr=0.001))
