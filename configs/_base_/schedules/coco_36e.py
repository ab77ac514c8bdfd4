"""36 epochs of 64 images from pretrained weights of a plain ViT.

AdamW 1e-4, 250 iterations of warm-up and an lr 0.7 times smaller from block to block towards the input, as
ViTDet's (arXiv 2203.16527), at a weight decay of 0.05; it trains for 100 epochs and steps the lr down.
"""

max_epochs = 36
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(
        type='CosineAnnealingLR', eta_min_ratio=0.01, T_max=max_epochs, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.0001, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.7),
)
auto_scale_lr = dict(base_batch_size=64)
