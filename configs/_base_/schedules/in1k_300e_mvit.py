"""300 epochs at a total batch of 2,048 images, as MViTv2 (arXiv 2112.01526): AdamW 0.002, 70 epochs of warm-up."""

max_epochs = 300
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=70, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.005,
        begin=70,
        end=max_epochs,
        T_max=max_epochs - 70,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={'rel_pos': dict(decay_mult=0)},
    ),
)
auto_scale_lr = dict(base_batch_size=2048)
