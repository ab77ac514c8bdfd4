"""Softmax twin of `castling-cls_deit-b_8xb128-300e_in1k-224x224`.

DeiT-B itself with the same recipe. Status: not run.

    bash tools/dist_train.sh configs/castling_cls/cls_deit-b_8xb128-300e_in1k-224x224.py 8 --amp
"""

_base_ = './castling-cls_deit-b_8xb128-300e_in1k-224x224.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
