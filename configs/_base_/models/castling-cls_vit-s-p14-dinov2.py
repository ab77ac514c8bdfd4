"""timm's DINOv2 ViT-S/14, castlified, the mean of its last map and a linear classifier; 1,000 classes."""

_base_ = './castling-cls_levit-nano.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='CastlingTimm',
        model_name='vit_small_patch14_dinov2',
        attn=dict(type='FocalAttention'),
    ),
    head=dict(in_channels=384),
)
