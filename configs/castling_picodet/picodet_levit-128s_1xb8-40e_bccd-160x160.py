"""Softmax twin of `castling-picodet_levit-128s_1xb8-40e_bccd-160x160`.

LeViT itself with the same recipe; its logit biases are learnt on the grid of this input size.

    python tools/train.py configs/castling_picodet/picodet_levit-128s_1xb8-40e_bccd-160x160.py

The learning rate is the one that docs/studies/castling-detection.md found for it.
"""

_base_ = './castling-picodet_levit-128s_1xb8-40e_bccd-160x160.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention'), bias_grid=10))
optim_wrapper = dict(optimizer=dict(lr=0.008))
