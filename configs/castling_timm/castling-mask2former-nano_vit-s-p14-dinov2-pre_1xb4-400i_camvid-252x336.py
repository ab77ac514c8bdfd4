"""Mask2Former-nano with castlified DINOv2 ViT-S/14 on CamVid at 336x252 px.

python tools/train.py configs/castling_timm/castling-mask2former-nano_vit-s-p14-dinov2-pre_1xb4-400i_camvid-252x336.py

The weights of DINOv2 (arXiv 2304.07193) are a local file in its own, timm's or transformers' keys; give another as
`--cfg-options model.backbone.pretrained=FILE`, or True for timm's download. Rates as of the light head, not tuned here.
Measured here with --amp: 56.19 mIoU (seed 0, commit bccb736, half an hour of one CPU thread); the light head has 62.74.
"""

_base_ = [
    '../_base_/models/castling-mask2former-nano_vit-s-p14-dinov2.py',
    '../_base_/datasets/camvid_252x336.py',
    '../_base_/schedules/small_400i.py',
    '../_base_/runtimes/segmentation.py',
]

num_classes = 11
model = dict(
    data_preprocessor=dict(size=(252, 336)),
    backbone=dict(pretrained='checkpoints/dinov2_vits14_pretrain.pth'),
    decode_head=dict(
        num_classes=num_classes,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
    ),
    test_cfg=dict(crop_size=(252, 336), stride=(168, 224)),
)
