"""400 iterations of 4 images from pretrained weights of a plain ViT, on one CPU or GPU.

AdamW; the lr is 0.75 times smaller from block to block towards the input, and 10 times larger in neck and head.
"""

max_iters = 400
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=50, end=max_iters),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.0001, weight_decay=0.05),
    paramwise_cfg=dict(
        layer_decay_rate=0.75,
        custom_keys={'neck': dict(lr_mult=10), 'decode_head': dict(lr_mult=10)},
    ),
)
auto_scale_lr = dict(base_batch_size=4)
