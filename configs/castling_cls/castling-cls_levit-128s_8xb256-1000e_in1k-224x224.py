"""Castling-LeViT-128S on ImageNet-1k at 224 px, by LeViT's recipe, distilled from a RegNetY-16GF.

The paper's own recipe is unpublished. Status: not run.

    bash tools/dist_train.sh configs/castling_cls/castling-cls_levit-128s_8xb256-1000e_in1k-224x224.py 8 --amp
"""

_base_ = [
    '../_base_/models/castling-cls_levit-128s.py',
    '../_base_/datasets/in1k_224x224.py',
    '../_base_/schedules/in1k_1000e.py',
    '../_base_/runtimes/classification_ema.py',
]

train_dataloader = dict(batch_size=256)
