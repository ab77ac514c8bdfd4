"""Softmax twin of `castling-mae_vit-nano_1xb32-200e_flowers5-camvid-192x192`.

MAE of ViT-nano itself with the same recipe. Status: not run.

    python tools/train.py configs/castling_mae/mae_vit-nano_1xb32-200e_flowers5-camvid-192x192.py
"""

_base_ = './castling-mae_vit-nano_1xb32-200e_flowers5-camvid-192x192.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
