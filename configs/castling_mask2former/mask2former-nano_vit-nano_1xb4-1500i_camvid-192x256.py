"""Softmax twin of `castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256`.

ViT-nano itself with the same recipe and the best of the same four learning rates. Measured here: mIoU 35.0 +- 0.6, three
seeds, one CPU thread (docs/studies/castling-segmentation.md).

    python tools/train.py configs/castling_mask2former/mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256.py
"""

_base_ = './castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='SoftmaxAttention')))
optim_wrapper = dict(optimizer=dict(lr=0.002))
