"""160,000 iterations of 16 images.

Mask2Former's own (arXiv 2112.01527): AdamW 1e-4, weight decay 0.05 but none for embeddings of queries and
levels, gradients clipped at a norm of 0.01, poly schedule of power 0.9. MAE's for segmentation, as in mmseg: lr
0.65 times smaller from block to block towards the input, 1,500 iterations of warm-up. Mask2Former has no
warm-up and 0.1 times the lr in its convolutional backbones; Castling-ViT's own schedule is unpublished.
"""

max_iters = 160000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=1500, end=max_iters),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.0001, weight_decay=0.05, betas=(0.9, 0.999)),
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        custom_keys={
            'query_embed': dict(decay_mult=0),
            'query_feat': dict(decay_mult=0),
            'level_embed': dict(decay_mult=0),
            'level_encoding': dict(decay_mult=0),
        },
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=16)
