"""Castling-LeViT-128S with a PicoDet neck and head on COCO at 320 px.

Attention: Castling-ViT (arXiv 2211.10526); detector: PicoDet as of 2022.03. The paper's own COCO
configs are unpublished; optimiser, neck width and schedule are ours. Status: not run.

    tools/dist_train.sh configs/castling_picodet/castling-picodet_levit-128s_8xb32-300e_coco-320x320.py 8
"""

_base_ = [
    '../_base_/models/castling-picodet_levit-128s.py',
    '../_base_/datasets/coco_320x320.py',
    '../_base_/schedules/coco_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(
                type='BatchSyncRandomResize',
                random_size_range=(256, 384),
                size_divisor=32,
                interval=1,
            )
        ]
    ),
)
