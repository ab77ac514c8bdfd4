"""Softmax twin of `castling-mask2former-nano_mvit-nano_1xb4-1500i_camvid-192x256`.

MViTv2 itself with the same recipe; its tables of relative positions are those of the longer side, and the vertical ones are resized.
Status: not run.

    python tools/train.py configs/castling_mvit/mask2former-nano_mvit-nano_1xb4-1500i_camvid-192x256.py
"""

_base_ = './castling-mask2former-nano_mvit-nano_1xb4-1500i_camvid-192x256.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
