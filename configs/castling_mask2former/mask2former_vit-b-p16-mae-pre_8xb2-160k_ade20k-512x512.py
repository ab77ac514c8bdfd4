"""Softmax twin of `castling-mask2former_vit-b-p16-mae-pre_8xb2-160k_ade20k-512x512`.

The ViT-B/16 of MAE itself with the same recipe. Status: not run.

    bash tools/dist_train.sh configs/castling_mask2former/mask2former_vit-b-p16-mae-pre_8xb2-160k_ade20k-512x512.py 8 --amp --auto-scale-lr
"""

_base_ = './castling-mask2former_vit-b-p16-mae-pre_8xb2-160k_ade20k-512x512.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
