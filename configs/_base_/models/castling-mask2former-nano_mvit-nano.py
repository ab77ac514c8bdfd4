"""Mask2Former-nano on the four maps of Castling-MViTv2-nano; 150 classes, crops of 128 px."""

_base_ = './castling-mask2former-nano_vit-nano.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='CastlingMViT',
        arch='nano',
        attn=dict(type='CastlingAttention'),
        pos_grid=32,
    ),
    neck=None,
    decode_head=dict(in_channels=[32, 64, 128, 256]),
)
