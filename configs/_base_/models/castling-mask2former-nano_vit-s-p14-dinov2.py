"""Mask2Former-nano on timm's DINOv2 ViT-S/14, castlified: maps of strides 3.5 to 28, crops of 560 px.

Otherwise as on Castling-ViT-nano: ViTDet's pyramid of the last map, 150 classes.
"""

_base_ = './castling-mask2former-nano_vit-nano.py'

model = dict(
    data_preprocessor=dict(size=(560, 560), test_cfg=dict(size_divisor=28)),
    backbone=dict(
        _delete_=True,
        type='CastlingTimm',
        model_name='vit_small_patch14_dinov2',
        attn=dict(type='FocalAttention'),
    ),
    neck=dict(in_channels=384),
    test_cfg=dict(crop_size=(560, 560), stride=(373, 373)),  # sizes of mode='slide'
)
