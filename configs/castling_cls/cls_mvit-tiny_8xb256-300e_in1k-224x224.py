"""Softmax twin of `castling-cls_mvit-tiny_8xb256-300e_in1k-224x224`.

MViTv2-T itself with the same recipe; what it adds to the logits is learnt on the grid of 224 px. Status: not run.

    bash tools/dist_train.sh configs/castling_cls/cls_mvit-tiny_8xb256-300e_in1k-224x224.py 8 --amp
"""

_base_ = './castling-cls_mvit-tiny_8xb256-300e_in1k-224x224.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
