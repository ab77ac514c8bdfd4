"""Softmax twin of `castling-retinanet_mvit-t-in1k-pre_8xb8-36e_coco-640x640`.

MViTv2 itself with the same recipe; its tables of relative positions are learnt on the grid of 224 px and resized.
Status: not run.

    bash tools/dist_train.sh configs/castling_mvit/retinanet_mvit-t-in1k-pre_8xb8-36e_coco-640x640.py 8 --amp
"""

_base_ = './castling-retinanet_mvit-t-in1k-pre_8xb8-36e_coco-640x640.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
