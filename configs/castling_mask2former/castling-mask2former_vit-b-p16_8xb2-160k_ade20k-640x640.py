"""Mask2Former with Castling-ViT-B/16 from random weights on ADE20K at 640 px.

The paper reports 34.67 mIoU for this model and 34.54 for its softmax twin (*quoted*, the authors' slides); crop,
pyramid and schedule are unpublished. As with MAE weights, but positions are learnt on the grid of 640 px and no
layer learns more slowly than another, which is ours. Status: not run.

    bash tools/dist_train.sh configs/castling_mask2former/castling-mask2former_vit-b-p16_8xb2-160k_ade20k-640x640.py 8 --amp --auto-scale-lr
"""

_base_ = [
    '../_base_/models/castling-mask2former_vit-b-p16.py',
    '../_base_/datasets/ade20k_640x640.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/runtimes/segmentation.py',
]

model = dict(backbone=dict(pos_grid=40))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
