"""PicoDet's head with castlified DINOv2 ViT-S/14 on blood cells (BCCD) at 320 px.

python tools/train.py configs/castling_timm/castling-picodet_vit-s-p14-dinov2-pre_1xb8-9e_bccd-320x320.py

The weights of DINOv2 (arXiv 2304.07193) are a local file in its own, timm's or transformers' keys; give another as
`--cfg-options model.backbone.pretrained=FILE`, or True for timm's download. Images are filled up to multiples of 28 px.
Measured here with --amp: 45.6 mAP, 74.3 AP50 (seed 0, commit bccb736, about 30 minutes of one CPU thread). From
scratch LeViT-128S has 57.8 after 60 epochs in 35 minutes (castling_picodet/).
"""

_base_ = [
    '../_base_/models/castling-picodet_vit-s-p14-dinov2.py',
    '../_base_/datasets/bccd_320x320.py',
    '../_base_/schedules/small_9e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    backbone=dict(pretrained='checkpoints/dinov2_vits14_pretrain.pth', drop_path_rate=0),
    bbox_head=dict(num_classes=3, stacked_convs=2),
    train_cfg=dict(initial_epoch=3),
)
