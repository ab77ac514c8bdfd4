"""Mask2Former made small, for CPUs, tests and studies: 64 channels, 20 queries, 1 + 3 layers.

The head of `castling-mask2former_vit-b-p16.py` in other sizes, on Castling-ViT-nano with ViTDet's
pyramid; 150 classes, crops of 128 px.
"""

num_classes = 150
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
    backbone=dict(
        type='CastlingViT',
        arch='nano',
        attn=dict(type='CastlingAttention'),
    ),
    neck=dict(type='SimpleFeaturePyramid', in_channels=128, out_channels=64),
    decode_head=dict(
        type='SlidingMask2FormerHead',
        in_channels=[64, 64, 64, 64],
        strides=[4, 8, 16, 32],
        feat_channels=64,
        out_channels=64,
        num_classes=num_classes,
        num_queries=20,
        pixel_decoder=dict(
            type='mmdet.MSDeformAttnPixelDecoder',
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(
                    self_attn_cfg=dict(embed_dims=64, num_heads=4, num_levels=3, dropout=0.0),
                    ffn_cfg=dict(embed_dims=64, feedforward_channels=256, ffn_drop=0.0),
                ),
            ),
            positional_encoding=dict(num_feats=32, normalize=True),
        ),
        positional_encoding=dict(num_feats=32, normalize=True),
        transformer_decoder=dict(
            num_layers=3,
            layer_cfg=dict(
                self_attn_cfg=dict(
                    embed_dims=64, num_heads=4, dropout_layer=None, batch_first=True
                ),
                cross_attn_cfg=dict(
                    embed_dims=64, num_heads=4, dropout_layer=None, batch_first=True
                ),
                ffn_cfg=dict(embed_dims=64, feedforward_channels=256),
            ),
            return_intermediate=True,
        ),
        loss_cls=dict(
            type='mmdet.CrossEntropyLoss',
            loss_weight=2.0,
            class_weight=[1.0] * num_classes + [0.1],
        ),
        loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0),
        loss_dice=dict(
            type='mmdet.DiceLoss', use_sigmoid=True, naive_dice=True, eps=1.0, loss_weight=5.0
        ),
        train_cfg=dict(
            num_points=1024,
            oversample_ratio=3.0,
            importance_sample_ratio=0.75,
            assigner=dict(
                type='mmdet.HungarianAssigner',
                match_costs=[
                    dict(type='mmdet.ClassificationCost', weight=2.0),
                    dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                    dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
                ],
            ),
            sampler=dict(type='mmdet.MaskPseudoSampler'),
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', crop_size=(128, 128), stride=(85, 85)),  # sizes of mode='slide'
)
