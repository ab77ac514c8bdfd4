"""Castling-DeiT-T on ImageNet-1k at 224 px, by DeiT's recipe without distillation.

The paper's own recipe is unpublished. Status: not run.

    bash tools/dist_train.sh configs/castling_cls/castling-cls_deit-t_8xb128-300e_in1k-224x224.py 8 --amp
"""

_base_ = [
    '../_base_/models/castling-cls_deit-tiny.py',
    '../_base_/datasets/in1k_224x224.py',
    '../_base_/schedules/in1k_300e.py',
    '../_base_/runtimes/classification.py',
]

model = dict(backbone=dict(drop_path_rate=0.1))
