"""Softmax twin of `castling-mae_vit-b-p16_8xb512-1600e_in1k-224x224`.

MAE of ViT-B/16 itself with the same recipe. Status: not run.

    bash tools/dist_train.sh configs/castling_mae/mae_vit-b-p16_8xb512-1600e_in1k-224x224.py 8 --amp
"""

_base_ = './castling-mae_vit-b-p16_8xb512-1600e_in1k-224x224.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
