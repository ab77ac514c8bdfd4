"""A classifier on one's own folders of classes: what `tools/new_config.py` puts beside a model.

Size, classes, folders and epochs stand in the file that it writes. From random weights, 16 images an iteration; the rate
is that of the configs for flowers, not tuned.
"""

_base_ = '../runtimes/classification.py'

# Of the pipelines, before and after what has a size, which is the leaf's.
before = [dict(type='LoadReadableImage', on_error='skip')]
after = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_before = [dict(type='LoadImageFromFile')]
test_after = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset'),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

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
auto_scale_lr = dict(base_batch_size=16)
