"""Softmax twin of `castling-mask2former-nano_vit-nano_1xb4-1500i_coco133-256x256`.

ViT-nano itself with the same recipe. Status: not run.

    python tools/train.py configs/castling_mask2former/mask2former-nano_vit-nano_1xb4-1500i_coco133-256x256.py
"""

_base_ = './castling-mask2former-nano_vit-nano_1xb4-1500i_coco133-256x256.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
