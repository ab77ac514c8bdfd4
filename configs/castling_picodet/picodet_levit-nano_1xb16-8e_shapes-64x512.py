"""Softmax twin of `castling-picodet_levit-nano_1xb16-8e_shapes-64x512`.

LeViT itself with the same recipe; its logit biases are learnt on the grid of this input size. Status: not run.

    python tools/train.py configs/castling_picodet/picodet_levit-nano_1xb16-8e_shapes-64x512.py
"""

_base_ = './castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention'), bias_grid=(4, 32)))
