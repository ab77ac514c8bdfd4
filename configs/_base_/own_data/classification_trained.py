"""The same from trained weights of a plain ViT, with the rates of the detector and the segmentor from such.

The lr is 0.75 times smaller from block to block towards the input, and 10 times larger in the head.
"""

_base_ = './classification.py'

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.0001, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.75, custom_keys={'head': dict(lr_mult=10)}),
)
