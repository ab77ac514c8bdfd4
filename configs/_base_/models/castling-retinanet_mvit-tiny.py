"""mmdet's RetinaNet with Castling-MViTv2-T in the place of its ResNet."""

_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True, type='CastlingMViT', arch='tiny', attn=dict(type='CastlingAttention')
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
