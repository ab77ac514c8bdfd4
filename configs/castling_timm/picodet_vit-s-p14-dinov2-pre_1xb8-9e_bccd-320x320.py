"""Softmax twin of `castling-picodet_vit-s-p14-dinov2-pre_1xb8-9e_bccd-320x320`.

The DINOv2 ViT itself with the same recipe. Status: not run.

    python tools/train.py configs/castling_timm/picodet_vit-s-p14-dinov2-pre_1xb8-9e_bccd-320x320.py
"""

_base_ = './castling-picodet_vit-s-p14-dinov2-pre_1xb8-9e_bccd-320x320.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
