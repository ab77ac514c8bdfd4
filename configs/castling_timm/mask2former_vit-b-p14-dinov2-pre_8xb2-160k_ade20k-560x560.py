"""Softmax twin of `castling-mask2former_vit-b-p14-dinov2-pre_8xb2-160k_ade20k-560x560`.

The DINOv2 ViT itself with the same recipe. Status: not run.

    bash tools/dist_train.sh configs/castling_timm/mask2former_vit-b-p14-dinov2-pre_8xb2-160k_ade20k-560x560.py 8 --amp --auto-scale-lr
"""

_base_ = './castling-mask2former_vit-b-p14-dinov2-pre_8xb2-160k_ade20k-560x560.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
