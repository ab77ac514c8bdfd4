"""PicoDet's head with castlified DINOv2 ViT-B/14 on COCO at 560 px.

Not a model of the paper: weights of DINOv2 (arXiv 2304.07193), built by timm; ViTDet's pyramid, PicoDet of 2022.03, a
schedule like ViTDet's. The weights are a local file in DINOv2's own, timm's or transformers' keys; give another as
`--cfg-options model.backbone.pretrained=FILE`, or True for timm's download. Status: not run.

    bash tools/dist_train.sh configs/castling_timm/castling-picodet_vit-b-p14-dinov2-pre_8xb8-36e_coco-560x560.py 8
"""

_base_ = [
    '../_base_/models/castling-picodet_vit-s-p14-dinov2.py',
    '../_base_/datasets/coco_560x560.py',
    '../_base_/schedules/coco_36e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    backbone=dict(
        model_name='vit_base_patch14_dinov2', pretrained='checkpoints/dinov2_vitb14_pretrain.pth'
    ),
    neck=[
        dict(type='SimpleFeaturePyramid', in_channels=768, out_channels=128, levels=(1, 2, 3)),
        dict(type='LCPAN', in_channels=[128, 128, 128], out_channels=128),
    ],
)
train_dataloader = dict(batch_size=8)
