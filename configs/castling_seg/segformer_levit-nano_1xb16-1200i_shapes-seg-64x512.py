"""Softmax twin of `castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512`.

LeViT itself with the same recipe; its logit biases are learnt on the grid of this input size. Status: not run.

    python tools/train.py configs/castling_seg/segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py
"""

_base_ = './castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention'), bias_grid=(4, 32)))
