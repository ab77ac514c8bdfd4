"""The softmax twin of the config below: LeViT itself, same recipe. Status: not run."""

_base_ = './castling-picodet_levit-192_8xb32-300e_coco-416x416.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
