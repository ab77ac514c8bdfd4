"""Softmax twin of `castling-segformer_vit-nano_1xb4-1500i_camvid-192x256`.

ViT-nano itself with the same recipe. Status: not run.

    python tools/train.py configs/castling_seg/segformer_vit-nano_1xb4-1500i_camvid-192x256.py
"""

_base_ = './castling-segformer_vit-nano_1xb4-1500i_camvid-192x256.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
