"""What trainings on one's own data share: loaders, loops, schedule and AdamW, counted in epochs."""

train_dataloader = dict(
    num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=True)
)
val_dataloader = dict(
    num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False)
)
test_dataloader = val_dataloader

train_cfg = dict(type='EpochBasedTrainLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [  # to the end of the training where no `end` is said
    dict(type='LinearLR', start_factor=0.1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, convert_to_iter_based=True),
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
            'bias.table': dict(decay_mult=0),
        },
    ),
)
# From trained weights: the lr is 0.75 times smaller from block to block towards the input, and 10 times larger in the
# neck and the head, as in configs/castling_timm.
layer_decay = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.0001, weight_decay=0.05),
    paramwise_cfg=dict(
        layer_decay_rate=0.75, custom_keys={'neck': dict(lr_mult=10), 'head': dict(lr_mult=10)}
    ),
)
