"""PicoDet's neck and head of 2022.03 on three maps of Castling-MViTv2-T; the neck makes that of stride 64."""

_base_ = './castling-picodet_levit-128s.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='CastlingMViT',
        arch='tiny',
        attn=dict(type='CastlingAttention'),
        out_indices=(1, 2, 3),
    ),
    neck=dict(in_channels=[192, 384, 768], out_channels=128),
    bbox_head=dict(in_channels=128, stacked_convs=4),
    train_cfg=dict(initial_epoch=12),
)
