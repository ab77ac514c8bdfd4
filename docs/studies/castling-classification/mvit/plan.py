"""The study of ../arms.py with MViTv2-nano, 15 epochs."""

_base_ = '../vit/plan.py'

base = 'configs/castling_cls/castling-cls_mvit-nano_1xb16-30e_flowers5-160x160.py'
