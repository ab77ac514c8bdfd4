"""The softmax twin of the config below: LeViT itself, same recipe."""

_base_ = './castling-picodet_levit-128s_1xb8-60e_bccd-320x320.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
