"""30 epochs of a small classification set on one CPU or GPU, 16 images an iteration, from random weights."""

max_epochs = 30
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR', eta_min_ratio=0.01, T_max=max_epochs, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={
            'pos_embed': dict(decay_mult=0),
            'cls_token': dict(decay_mult=0),
            'rel_pos': dict(decay_mult=0),
            'bias.table': dict(decay_mult=0),
        },
    ),
)
auto_scale_lr = dict(base_batch_size=16)
