"""The training images of five kinds of flowers (675) and of CamVid (367) at 192 px, without labels.

Root: CASTLING_DET_DATA (default `data`).
"""

data_root = '{{$CASTLING_DET_DATA:data}}/'

train_pipeline = [
    dict(type='LoadReadableImage', on_error='skip'),
    dict(
        type='RandomResizedCrop',
        scale=192,
        crop_ratio_range=(0.2, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
flowers = dict(
    type='CustomDataset',
    data_root=data_root,
    data_prefix='cls/flowers5/train',
    with_label=False,
    pipeline=train_pipeline,
)
camvid = dict(flowers, data_prefix='seg/camvid/images/training')

train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ConcatDataset', datasets=[flowers, camvid]),
)
