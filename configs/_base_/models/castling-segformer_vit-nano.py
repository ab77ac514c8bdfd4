"""SegFormer's head (arXiv 2105.15203) on Castling-ViT-nano with ViTDet's pyramid.

150 classes, crops of 128 px.
"""

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(128, 128),
        test_cfg=dict(size_divisor=32),
    ),
    backbone=dict(type='CastlingViT', arch='nano', attn=dict(type='CastlingAttention')),
    neck=dict(type='SimpleFeaturePyramid', in_channels=128, out_channels=64),
    decode_head=dict(
        type='SegformerHead',
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', crop_size=(128, 128), stride=(85, 85)),  # sizes of mode='slide'
)
