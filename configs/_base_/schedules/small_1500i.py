"""1,500 iterations of a small data set on one CPU or GPU, 4 images each, from random weights."""

max_iters = 1500
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=100, end=max_iters),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.0005, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={
            'pos_embed': dict(decay_mult=0),
            'cls_token': dict(decay_mult=0),
            'rel_pos': dict(decay_mult=0),
            'query_embed': dict(decay_mult=0),
            'query_feat': dict(decay_mult=0),
            'level_embed': dict(decay_mult=0),
            'level_encoding': dict(decay_mult=0),
        },
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=4)
