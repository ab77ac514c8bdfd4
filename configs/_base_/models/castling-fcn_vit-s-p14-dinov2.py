"""One convolution and a classifier on the last map of timm's DINOv2 ViT-S/14, castlified.

150 classes, crops of 560 px; the output has stride 14.
"""

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(560, 560),
        test_cfg=dict(size_divisor=14),
    ),
    backbone=dict(
        type='CastlingTimm',
        model_name='vit_small_patch14_dinov2',
        attn=dict(type='FocalAttention'),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=384,
        in_index=0,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', crop_size=(560, 560), stride=(373, 373)),  # sizes of mode='slide'
)
