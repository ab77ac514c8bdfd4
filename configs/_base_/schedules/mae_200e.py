"""200 epochs of MAE on a small set of images on one CPU or GPU, 32 images an iteration."""

_base_ = './mae_1600e.py'

max_epochs = 200
train_cfg = dict(max_epochs=max_epochs)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.0001, begin=0, end=10, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=10,
        end=max_epochs,
        T_max=max_epochs - 10,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(optimizer=dict(lr=0.001))
auto_scale_lr = dict(base_batch_size=32)
