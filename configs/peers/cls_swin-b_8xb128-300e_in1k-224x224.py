"""Swin-B, as mmpretrain ships it, on ImageNet-1k, by the recipe of `cls_swin-t_8xb128-300e_in1k-224x224`.

Published: 83.36 % (quoted from mmpretrain's metafile). Status: not run.

    bash tools/dist_train.sh configs/peers/cls_swin-b_8xb128-300e_in1k-224x224.py 8 --amp
"""

_base_ = './cls_swin-t_8xb128-300e_in1k-224x224.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1024))
