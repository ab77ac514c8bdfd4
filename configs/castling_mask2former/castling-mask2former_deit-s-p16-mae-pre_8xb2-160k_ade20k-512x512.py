"""Mask2Former with Castling-DeiT-S/16 from pretrained weights on ADE20K at 512 px.

Not a model of the paper: the recipe of ViT-B in a smaller size. MAE's authors publish no weights of this size; any local
file in a known layout will do, DeiT's own as well. Status: not run.

    bash tools/dist_train.sh configs/castling_mask2former/castling-mask2former_deit-s-p16-mae-pre_8xb2-160k_ade20k-512x512.py 8 --amp --auto-scale-lr
"""

_base_ = [
    '../_base_/models/castling-mask2former_vit-b-p16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/runtimes/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        arch='deit-small',
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mae_pretrain_deit_small.pth'),
    ),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    test_cfg=dict(crop_size=(512, 512), stride=(341, 341)),
)
