"""mmdet's RetinaNet with Castling-MViTv2-T in the place of its ResNet."""

_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='CastlingMViT',
        arch='tiny',
        attn=dict(type='CastlingAttention'),
        out_indices=(1, 2, 3),  # RetinaNet begins at stride 8, and several GPUs want no idle norm
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
