"""The softmax twin of the config below: LeViT itself, same recipe. Status: not run."""

_base_ = './castling-picodet_levit-128s_8xb32-300e_coco-640x640.py'

model = dict(backbone=dict(attn=dict(type='SoftmaxAttention')))
