"""The softmax twin of castling-picodet_levit-192_8xb32-300e_coco-416x416: LeViT itself. Status: not run."""

_base_ = './castling-picodet_levit-192_8xb32-300e_coco-416x416.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
