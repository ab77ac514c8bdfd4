"""Castling-MViTv2-T, the mean of its last map and a linear classifier, Mixup and CutMix; 1,000 classes."""

_base_ = './castling-cls_deit-tiny.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='CastlingMViT',
        arch='tiny',
        attn=dict(type='CastlingAttention'),
        out_indices=(3,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=768),
)
