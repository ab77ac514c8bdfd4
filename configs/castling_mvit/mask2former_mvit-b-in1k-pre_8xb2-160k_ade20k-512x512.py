"""Softmax twin of `castling-mask2former_mvit-b-in1k-pre_8xb2-160k_ade20k-512x512`.

MViTv2 itself with the same recipe; its tables of relative positions are learnt on the grid of 224 px and resized.
Status: not run.

    bash tools/dist_train.sh configs/castling_mvit/mask2former_mvit-b-in1k-pre_8xb2-160k_ade20k-512x512.py 8 --amp --auto-scale-lr
"""

_base_ = './castling-mask2former_mvit-b-in1k-pre_8xb2-160k_ade20k-512x512.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
