"""32 COCO images learnt by heart: mAP 0.5 or more on them proves the detector's wiring.

python tools/train.py configs/castling_picodet/castling-picodet_levit-128s_1xb8-100e_coco32-320x320.py

Measured here: mAP 74.5 (seed 0, commit bd45610, about 10 minutes of one CPU thread; see README.md).
"""

_base_ = [
    '../_base_/models/castling-picodet_levit-128s.py',
    '../_base_/datasets/coco32_320x320.py',
    '../_base_/schedules/small_100e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(train_cfg=dict(initial_epoch=20))
