"""Softmax twin of `castling-picodet_mvit-nano_1xb8-40e_bccd-160x160`.

MViTv2 itself with the same recipe; its tables of relative positions are learnt on the grid of this input size.
Status: not run.

    python tools/train.py configs/castling_mvit/picodet_mvit-nano_1xb8-40e_bccd-160x160.py
"""

_base_ = './castling-picodet_mvit-nano_1xb8-40e_bccd-160x160.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
