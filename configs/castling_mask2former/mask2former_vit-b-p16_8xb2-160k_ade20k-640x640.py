"""Softmax twin of `castling-mask2former_vit-b-p16_8xb2-160k_ade20k-640x640`.

ViT-B/16 itself with the same recipe. Status: not run.

    bash tools/dist_train.sh configs/castling_mask2former/mask2former_vit-b-p16_8xb2-160k_ade20k-640x640.py 8 --amp --auto-scale-lr
"""

_base_ = './castling-mask2former_vit-b-p16_8xb2-160k_ade20k-640x640.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
