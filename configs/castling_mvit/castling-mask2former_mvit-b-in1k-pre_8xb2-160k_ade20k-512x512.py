"""Mask2Former with Castling-MViTv2-B on ADE20K at 512 px.

Not a model of the paper, which has Mask2Former with ViT-B. Weights are the authors', timm's or mmpretrain's of
ImageNet (docs/weights.md). The rate is 0.81 times smaller from block to block: 24 blocks of it are as 12 of 0.65, MAE's
for ViT-B. Status: not run.

    bash tools/dist_train.sh configs/castling_mvit/castling-mask2former_mvit-b-in1k-pre_8xb2-160k_ade20k-512x512.py 8 --amp --auto-scale-lr
"""

_base_ = [
    '../_base_/models/castling-mask2former_mvit-base.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/runtimes/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='checkpoints/MViTv2_B_in1k.pyth')),
    test_cfg=dict(crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.81))
