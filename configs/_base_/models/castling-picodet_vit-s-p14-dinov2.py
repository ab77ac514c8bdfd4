"""PicoDet's neck and head of 2022.03 on timm's DINOv2 ViT-S/14, castlified, by ViTDet's pyramid.

The levels have strides of 7, 14 and 28; the neck makes that of 56.
"""

_base_ = './castling-picodet_levit-128s.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=28),
    backbone=dict(
        _delete_=True,
        type='CastlingTimm',
        model_name='vit_small_patch14_dinov2',
        attn=dict(type='FocalAttention'),
        drop_path_rate=0.1,
    ),
    neck=[
        dict(type='SimpleFeaturePyramid', in_channels=384, out_channels=128, levels=(1, 2, 3)),
        dict(type='LCPAN', in_channels=[128, 128, 128], out_channels=128),
    ],
    bbox_head=dict(
        in_channels=128, stacked_convs=4, anchor_generator=dict(strides=[7, 14, 28, 56])
    ),
    train_cfg=dict(initial_epoch=12),
)
