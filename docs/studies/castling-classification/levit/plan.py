"""The study of ../arms.py with LeViT-nano, whose twin has a table of logit biases."""

_base_ = '../arms.py'

lrs = [0.0005, 0.001, 0.002, 0.004, 0.008]
base = 'configs/castling_cls/castling-cls_levit-nano_1xb16-30e_flowers5-160x160.py'
arms = {'softmax twin': dict(options={'model.backbone.bias_grid': 10})}
