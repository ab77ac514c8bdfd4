"""Castling-MViTv2-nano, the mean of its last map and a linear classifier; 1,000 classes."""

_base_ = './castling-cls_levit-nano.py'

model = dict(
    backbone=dict(_delete_=True, type='CastlingMViT', arch='nano', out_indices=(3,)),
    head=dict(in_channels=256),
)
