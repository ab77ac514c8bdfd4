"""Softmax twin of `castling-cls_levit-192_8xb256-1000e_in1k-224x224`.

LeViT-192 itself with the same recipe; its logit biases are learnt on the grid of 224 px. Status: not run.

    bash tools/dist_train.sh configs/castling_cls/cls_levit-192_8xb256-1000e_in1k-224x224.py 8 --amp
"""

_base_ = './castling-cls_levit-192_8xb256-1000e_in1k-224x224.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention'), bias_grid=14))
