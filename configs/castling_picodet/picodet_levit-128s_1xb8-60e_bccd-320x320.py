"""Softmax twin of `castling-picodet_levit-128s_1xb8-60e_bccd-320x320`.

LeViT itself with the same recipe; its logit biases are learnt on the grid of this input size.

    python tools/train.py configs/castling_picodet/picodet_levit-128s_1xb8-60e_bccd-320x320.py

Measured here: 55.5 mAP, 88.2 AP50 (seed 0, commit bafc887, older code, 35 minutes of one CPU thread; see README.md).
"""

_base_ = './castling-picodet_levit-128s_1xb8-60e_bccd-320x320.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention'), bias_grid=20))
