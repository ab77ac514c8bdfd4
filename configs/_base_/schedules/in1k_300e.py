"""300 epochs at a total batch of 1,024 images, as DeiT (arXiv 2012.12877, table 9): AdamW 0.001, 5 epochs of warm-up.

Its repeated augmentation is left out.
"""

max_epochs = 300
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        begin=5,
        end=max_epochs,
        T_max=max_epochs - 5,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={'pos_embed': dict(decay_mult=0), 'cls_token': dict(decay_mult=0)},
    ),
)
auto_scale_lr = dict(base_batch_size=1024)
