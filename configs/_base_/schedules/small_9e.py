"""9 epochs of a small data set from pretrained weights of a plain ViT, 8 images an iteration.

AdamW; the lr is 0.75 times smaller from block to block towards the input, and 10 times larger in the neck and the head.
"""

_base_ = './coco_36e.py'

max_epochs = 9
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', eta_min_ratio=0.01, T_max=max_epochs, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(
    paramwise_cfg=dict(
        layer_decay_rate=0.75,
        custom_keys={'neck': dict(lr_mult=10), 'bbox_head': dict(lr_mult=10)},
    )
)
auto_scale_lr = dict(base_batch_size=8)
