"""MAE of Castling-ViT-nano on the images of flowers and CamVid at 192 px.

python tools/train.py configs/castling_mae/castling-mae_vit-nano_1xb32-200e_flowers5-camvid-192x192.py

Rate and length were not tuned. Status: not run.
"""

_base_ = [
    '../_base_/models/castling-mae_vit-b-p16.py',
    '../_base_/datasets/flowers5-camvid_192x192.py',
    '../_base_/schedules/mae_200e.py',
    '../_base_/runtimes/classification.py',
]

model = dict(
    backbone=dict(arch='nano', pos_grid=12),
    neck=dict(
        num_patches=12 * 12,
        embed_dim=128,
        decoder_embed_dim=64,
        decoder_depth=2,
        decoder_num_heads=4,
    ),
)
default_hooks = dict(checkpoint=dict(interval=20))
