"""The softmax twin of the config below: LeViT itself, same recipe."""

_base_ = './castling-picodet_levit-nano_1xb16-20e_shapes-160x160.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
