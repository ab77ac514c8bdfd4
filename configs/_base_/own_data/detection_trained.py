"""The same from trained weights of a plain ViT: AdamW as on blood cells in configs/castling_timm.

The lr is 0.75 times smaller from block to block towards the input, and 10 times larger in the neck and the head.
"""

_base_ = './detection.py'

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.0001, weight_decay=0.05),
    paramwise_cfg=dict(
        layer_decay_rate=0.75,
        custom_keys={'neck': dict(lr_mult=10), 'bbox_head': dict(lr_mult=10)},
    ),
)
