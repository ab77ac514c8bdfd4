"""The study of ../arms.py with MViTv2-nano, 15 epochs."""

_base_ = '../vit/plan.py'

lrs = [0.000125, 0.00025, 0.0005, 0.001, 0.002]
base = 'configs/castling_cls/castling-cls_mvit-nano_1xb16-30e_flowers5-160x160.py'
