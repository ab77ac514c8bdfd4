"""GFL's head on timm's DINOv2 ViT-S/14, castlified, by ViTDet's pyramid: for few images.

One head of one convolution serves the three levels, of strides 7, 14 and 28: it learns from fewer boxes than PicoDet's
neck and its four heads, which all start from random weights.
"""

_base_ = './castling-picodet_levit-128s.py'

model = dict(
    type='GFL',
    data_preprocessor=dict(pad_size_divisor=28),
    backbone=dict(
        _delete_=True,
        type='CastlingTimm',
        model_name='vit_small_patch14_dinov2',
        attn=dict(type='FocalAttention'),
        drop_path_rate=0.1,
    ),
    neck=dict(
        _delete_=True,
        type='SimpleFeaturePyramid',
        in_channels=384,
        out_channels=128,
        levels=(1, 2, 3),
    ),
    bbox_head=dict(
        _delete_=True,
        type='GFLHead',
        num_classes=80,
        in_channels=128,
        feat_channels=128,
        stacked_convs=1,
        norm_cfg=dict(type='GN', num_groups=16),
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=5,
            scales_per_octave=1,
            strides=[7, 14, 28],
            center_offset=0.5,
        ),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
    ),
    train_cfg=dict(
        _delete_=True, assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1
    ),
)
