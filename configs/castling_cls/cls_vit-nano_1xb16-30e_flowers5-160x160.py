"""Softmax twin of `castling-cls_vit-nano_1xb16-30e_flowers5-160x160`.

ViT-nano itself with the same recipe. Status: not run; 15 epochs
of it are in docs/studies/castling-classification/vit.md.

    python tools/train.py configs/castling_cls/cls_vit-nano_1xb16-30e_flowers5-160x160.py
"""

_base_ = './castling-cls_vit-nano_1xb16-30e_flowers5-160x160.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
