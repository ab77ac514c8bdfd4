"""Castling-LeViT-nano, the mean of its last map and a linear classifier; 1,000 classes, labels are not mixed."""

_base_ = './castling-cls_deit-tiny.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='CastlingLeViT',
        arch='nano',
        attn=dict(type='CastlingAttention'),
        out_indices=(3,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=192),
    train_cfg=None,
)
