"""Castling-LeViT-384 with a PicoDet neck and head on COCO at 416 px.

Attention: Castling-ViT (arXiv 2211.10526); detector: PicoDet as of 2022.03. The paper's own COCO
configs are unpublished; optimiser, neck width and schedule are ours. Status: not run.

lr 0.002 is for 8 GPUs with 32 images each; `--auto-scale-lr` adapts it. Hours on GPUs: *not run*, `--dry-run`
estimates them. On two CPU threads 300 epochs would take 19,789 hours at the 0.49 images a second of
one dry run here (one training step of 8 images).

    tools/dist_train.sh configs/castling_picodet/castling-picodet_levit-384_8xb32-300e_coco-416x416.py 8
"""

_base_ = [
    '../_base_/models/castling-picodet_levit-128s.py',
    '../_base_/datasets/coco_416x416.py',
    '../_base_/schedules/coco_300e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(
                type='BatchSyncRandomResize',
                random_size_range=(352, 480),
                size_divisor=32,
                interval=1,
            )
        ]
    ),
    backbone=dict(arch='384'),
    neck=dict(in_channels=[192, 384, 512, 768], out_channels=160),
    bbox_head=dict(in_channels=160, stacked_convs=4),
)
