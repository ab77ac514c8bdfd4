"""Blood cells (BCCD) at 196 px: 205 training and 87 validation images, three classes."""

_base_ = './bccd.py'

train_pipeline = [
    dict(type='LoadReadableImage', on_error='skip'),
    dict(type='LoadAnnotations', with_bbox=True),
    # Half of the images are cropped. Cells are so small that crops hardly ever reach an IoU with each.
    dict(type='MinIoURandomCrop', min_ious=(), min_crop_size=0.3),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Resize', scale=(196, 196), keep_ratio=False),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(196, 196), keep_ratio=False, interpolation='bicubic'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
