"""1,000 epochs at a total batch of 2,048 images, as LeViT (arXiv 2104.01136): AdamW 0.002, 5 epochs of warm-up.

Its adaptive gradient clipping, which mmengine does not have, and its repeated augmentation are left out.
"""

_base_ = './in1k_300e.py'

max_epochs = 1000
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.0005, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.00001,
        begin=5,
        end=max_epochs,
        T_max=max_epochs - 5,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=0.002, weight_decay=0.025),
    paramwise_cfg=dict(custom_keys={'bias.table': dict(decay_mult=0)}),
)
auto_scale_lr = dict(base_batch_size=2048)
