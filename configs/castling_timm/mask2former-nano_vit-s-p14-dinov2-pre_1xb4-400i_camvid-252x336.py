"""Softmax twin of `castling-mask2former-nano_vit-s-p14-dinov2-pre_1xb4-400i_camvid-252x336`.

The DINOv2 ViT itself with the same recipe. Status: not run.

    python tools/train.py configs/castling_timm/mask2former-nano_vit-s-p14-dinov2-pre_1xb4-400i_camvid-252x336.py
"""

_base_ = './castling-mask2former-nano_vit-s-p14-dinov2-pre_1xb4-400i_camvid-252x336.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
