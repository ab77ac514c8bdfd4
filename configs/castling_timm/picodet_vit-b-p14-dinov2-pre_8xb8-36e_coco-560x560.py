"""Softmax twin of `castling-picodet_vit-b-p14-dinov2-pre_8xb8-36e_coco-560x560`.

The DINOv2 ViT itself with the same recipe. Status: not run.

    bash tools/dist_train.sh configs/castling_timm/picodet_vit-b-p14-dinov2-pre_8xb8-36e_coco-560x560.py 8
"""

_base_ = './castling-picodet_vit-b-p14-dinov2-pre_8xb8-36e_coco-560x560.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
