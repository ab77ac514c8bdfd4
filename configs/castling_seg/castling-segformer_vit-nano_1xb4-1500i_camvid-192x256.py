"""SegFormer's head with Castling-ViT-nano from random weights on CamVid at 256x192 px.

python tools/train.py configs/castling_seg/castling-segformer_vit-nano_1xb4-1500i_camvid-192x256.py

The light head beside the study of Mask2Former-nano; lr and iterations were not tuned. Measured here: mIoU 32.3, seed 0,
one CPU thread.
"""

_base_ = [
    '../_base_/models/castling-segformer_vit-nano.py',
    '../_base_/datasets/camvid_192x256.py',
    '../_base_/schedules/small_1500i.py',
    '../_base_/runtimes/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=(192, 256)),
    backbone=dict(pos_grid=(12, 16)),
    decode_head=dict(num_classes=11),
    test_cfg=dict(crop_size=(192, 256), stride=(128, 170)),
)
