"""Mask2Former-nano with Castling-ViT-nano from random weights on 133 classes of COCO.

python tools/train.py configs/castling_mask2former/castling-mask2former-nano_vit-nano_1xb4-1500i_coco133-256x256.py

Many classes, things and stuff, in little data: the wiring of ADE20K, no benchmark. Measured here: mIoU 1.4, aAcc 23.8
(seed 0, one CPU thread), since 100 images teach the large regions alone.
"""

_base_ = [
    '../_base_/models/castling-mask2former-nano_vit-nano.py',
    '../_base_/datasets/coco133_256x256.py',
    '../_base_/schedules/small_1500i.py',
    '../_base_/runtimes/segmentation.py',
]

num_classes = 133
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(pos_grid=16),
    decode_head=dict(
        num_classes=num_classes,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
    ),
    test_cfg=dict(crop_size=(256, 256), stride=(170, 170)),
)
