"""1,600 epochs at a total batch of 4,096 images, as MAE (arXiv 2111.06377): AdamW, 40 epochs of warm-up."""

max_epochs = 1600
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.0001, begin=0, end=40, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=40,
        end=max_epochs,
        T_max=max_epochs - 40,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={'mask_token': dict(decay_mult=0), 'cls_token': dict(decay_mult=0)},
    ),
)
auto_scale_lr = dict(base_batch_size=4096)
