"""The demo: a nano segmentor learns procedural scenes within minutes on two CPU cores.

python tools/make_shapes.py data/shapes
python tools/train.py configs/castling_seg/castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py

Measured here: mIoU 70.8 ± 0.4 (three seeds, one CPU thread; see docs/studies/token-mixing.md).
"""

_base_ = [
    '../_base_/models/castling-segformer_levit-nano.py',
    '../_base_/datasets/shapes-seg_64x512.py',
    '../_base_/schedules/small_1200i.py',
    '../_base_/runtimes/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=(64, 512)),
    decode_head=dict(
        num_classes=7,
        loss_decode=dict(class_weight=[0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),  # 93 % is ground
    ),
    test_cfg=dict(crop_size=(64, 512), stride=(42, 341)),
)
