"""Swin-T, as mmpretrain ships it, on ImageNet-1k below CASTLING_DET_DATA (default `data`).

Schedule and augmentation are those of our DeiT. Published: 81.18 % (quoted from mmpretrain's metafile). Status: not run.

    bash tools/dist_train.sh configs/peers/cls_swin-t_8xb128-300e_in1k-224x224.py 8 --amp
"""

_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    '../_base_/datasets/in1k_224x224.py',
    '../_base_/schedules/in1k_300e.py',
    '../_base_/runtimes/classification.py',
]

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
        num_classes=1000,
    ),
    backbone=dict(pad_small_map=True),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0)})
)
