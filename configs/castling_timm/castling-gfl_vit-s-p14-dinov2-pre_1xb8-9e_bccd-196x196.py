"""GFL's head with castlified DINOv2 ViT-S/14 on blood cells (BCCD) at 196 px.

python tools/train.py configs/castling_timm/castling-gfl_vit-s-p14-dinov2-pre_1xb8-9e_bccd-196x196.py

What `castling-det new-config --model vit-s-dinov2` writes for boxes, with the recipe of PicoDet's head at 320 px. The
weights of DINOv2 (arXiv 2304.07193) are a local file in its own, timm's or transformers' keys; give another as
`--cfg-options model.backbone.pretrained=FILE`, or True for timm's download. Measured here with --amp: 46.0 mAP, 70.1
AP50 (seed 0, commit 6e186cd, about 6 minutes of one CPU thread); three seeds: docs/studies/few-images.md.
"""

_base_ = [
    '../_base_/models/castling-gfl_vit-s-p14-dinov2.py',
    '../_base_/datasets/bccd_196x196.py',
    '../_base_/schedules/small_9e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    backbone=dict(pretrained='checkpoints/dinov2_vits14_pretrain.pth', drop_path_rate=0),
    bbox_head=dict(num_classes=3),
)
