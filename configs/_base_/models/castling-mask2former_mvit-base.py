"""Mask2Former on the four maps of Castling-MViTv2-B: 150 classes, crops of 640 px."""

_base_ = './castling-mask2former_vit-b-p16.py'

model = dict(
    backbone=dict(
        _delete_=True, type='CastlingMViT', arch='base', attn=dict(type='CastlingAttention')
    ),
    neck=None,
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
