"""Softmax twin of `castling-picodet_levit-128s_8xb32-300e_coco-640x640`.

LeViT itself with the same recipe; its logit biases are learnt on the grid of this input size. Status: not run.

    tools/dist_train.sh configs/castling_picodet/picodet_levit-128s_8xb32-300e_coco-640x640.py 8
"""

_base_ = './castling-picodet_levit-128s_8xb32-300e_coco-640x640.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention'), bias_grid=40))
