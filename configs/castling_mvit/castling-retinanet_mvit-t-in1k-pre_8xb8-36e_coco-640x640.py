"""mmdet's RetinaNet with Castling-MViTv2-T on COCO at 640 px.

Not a model of the paper: any detector of mmdet takes the backbone. Weights are the authors', timm's or mmpretrain's
of ImageNet (docs/weights.md), schedule and rate are of the kind that ViTDet uses, untuned. Status: not run.

    bash tools/dist_train.sh configs/castling_mvit/castling-retinanet_mvit-t-in1k-pre_8xb8-36e_coco-640x640.py 8 --amp
"""

_base_ = [
    '../_base_/models/castling-retinanet_mvit-tiny.py',
    '../_base_/datasets/coco_640x640.py',
    '../_base_/schedules/coco_36e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='checkpoints/MViTv2_T_in1k.pyth'))
)
train_dataloader = dict(batch_size=8)
