"""The study of ../arms.py with ViT-nano, 15 epochs."""

_base_ = '../arms.py'

lrs = [0.00025, 0.0005, 0.001, 0.002]
base = 'configs/castling_cls/castling-cls_vit-nano_1xb16-30e_flowers5-160x160.py'
EPOCHS = {'train_cfg.max_epochs': 15, 'param_scheduler.1.T_max': 15}
arms = {name: dict(options=EPOCHS) for name in ('softmax twin', 'castled', 'linear-angular')}
del EPOCHS
