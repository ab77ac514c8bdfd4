"""300 epochs at a total batch of 2,048 images, as MViTv2 (arXiv 2112.01526): AdamW 0.002, 70 epochs of warm-up."""

_base_ = './in1k_300e.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=70, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.005,
        begin=70,
        end=300,
        T_max=230,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=0.002),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(custom_keys={'rel_pos': dict(decay_mult=0)}),
)
auto_scale_lr = dict(base_batch_size=2048)
