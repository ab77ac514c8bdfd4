"""Mask2Former with castlified DINOv2 ViT-B/14 on ADE20K at 560 px.

Not a model of the paper: weights of DINOv2 (arXiv 2304.07193), built by timm, in the recipe of ViT-B/16. The weights are a
local file in DINOv2's own, timm's or transformers' keys; give another as
`--cfg-options model.backbone.pretrained=FILE`, or True for timm's download. Status: not run.

    bash tools/dist_train.sh configs/castling_timm/castling-mask2former_vit-b-p14-dinov2-pre_8xb2-160k_ade20k-560x560.py 8 --amp --auto-scale-lr
"""

_base_ = [
    '../_base_/models/castling-mask2former_vit-s-p14-dinov2.py',
    '../_base_/datasets/ade20k_560x560.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/runtimes/segmentation.py',
]

model = dict(
    backbone=dict(
        model_name='vit_base_patch14_dinov2', pretrained='checkpoints/dinov2_vitb14_pretrain.pth'
    ),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
)
