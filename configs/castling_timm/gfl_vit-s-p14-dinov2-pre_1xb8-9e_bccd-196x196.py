"""Softmax twin of `castling-gfl_vit-s-p14-dinov2-pre_1xb8-9e_bccd-196x196`.

The DINOv2 ViT itself with the same recipe. Status: not run.

    python tools/train.py configs/castling_timm/gfl_vit-s-p14-dinov2-pre_1xb8-9e_bccd-196x196.py
"""

_base_ = './castling-gfl_vit-s-p14-dinov2-pre_1xb8-9e_bccd-196x196.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
