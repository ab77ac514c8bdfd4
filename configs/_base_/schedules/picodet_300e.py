"""PicoDet's own 300 epochs of SGD: lr 0.32 at a total batch of 256 images, in proportion for others.

Source: PaddleDetection release/2.6, `configs/picodet/_base_/optimizer_300e.yml`.
"""

max_epochs = 300
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=300),
    dict(type='CosineAnnealingLR', eta_min=0, T_max=max_epochs, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.32, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0),
)
auto_scale_lr = dict(base_batch_size=256)
