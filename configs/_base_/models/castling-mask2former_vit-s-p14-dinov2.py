"""Mask2Former on timm's DINOv2 ViT-S/14, castlified: maps of strides 3.5 to 28, crops of 560 px.

Otherwise as on ViT-B/16: mmseg's pyramid of blocks 4, 6, 8 and 12, 150 classes.
"""

_base_ = './castling-mask2former_vit-b-p16.py'

model = dict(
    data_preprocessor=dict(size=(560, 560), test_cfg=dict(size_divisor=28)),
    backbone=dict(
        _delete_=True,
        type='CastlingTimm',
        model_name='vit_small_patch14_dinov2',
        attn=dict(type='FocalAttention'),
        out_indices=(3, 5, 7, 11),
        drop_path_rate=0.1,
    ),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    test_cfg=dict(crop_size=(560, 560), stride=(373, 373)),  # sizes of mode='slide'
)
