"""Softmax twin of `castling-picodet_levit-nano_1xb16-15e_shapes-160x160`.

LeViT itself with the same recipe; its logit biases are learnt on the grid of this input size. Status: not run.

    python tools/train.py configs/castling_picodet/picodet_levit-nano_1xb16-15e_shapes-160x160.py
"""

_base_ = './castling-picodet_levit-nano_1xb16-15e_shapes-160x160.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention'), bias_grid=10))
