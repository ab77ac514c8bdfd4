"""Castling-LeViT-128S with PicoDet of 2022.03: neck, head, assigners, losses and NMS as there.

The neck takes four maps, because LeViT's third stage has stride 64.
"""

model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type='CastlingLeViT', arch='128s', attn=dict(type='CastlingAttention')),
    neck=dict(type='LCPAN', in_channels=[64, 128, 256, 384], out_channels=96),
    bbox_head=dict(
        type='PicoHead',
        num_classes=80,
        in_channels=96,
        stacked_convs=2,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=5,
            scales_per_octave=1,
            strides=[8, 16, 32, 64],
            center_offset=0.5,
        ),
        loss_cls=dict(
            type='VarifocalLoss',
            use_sigmoid=True,
            alpha=0.75,
            gamma=2.0,
            iou_weighted=True,
            loss_weight=1.0,
        ),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.5),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.5),
    ),
    train_cfg=dict(
        initial_epoch=100,
        initial_assigner=dict(type='ATSSAssigner', topk=9),
        assigner=dict(type='TaskAlignedAssigner', topk=13),
        alpha=1,
        beta=6,
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=1000, score_thr=0.025, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100
    ),
)
