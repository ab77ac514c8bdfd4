"""MAE of Castling-ViT-B/16 on ImageNet-1k at 224 px.

The paper's Mask2Former starts from such weights; its own recipe is unpublished, this is MAE's. Status: not run.

    bash tools/dist_train.sh configs/castling_mae/castling-mae_vit-b-p16_8xb512-1600e_in1k-224x224.py 8 --amp
"""

_base_ = [
    '../_base_/models/castling-mae_vit-b-p16.py',
    '../_base_/datasets/in1k-mae_224x224.py',
    '../_base_/schedules/mae_1600e.py',
    '../_base_/runtimes/classification.py',
]

default_hooks = dict(checkpoint=dict(interval=20))
randomness = dict(diff_rank_seed=True)  # no two processes hide the same places
