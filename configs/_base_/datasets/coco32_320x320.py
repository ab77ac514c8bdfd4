"""32 fixed COCO training images at 320 px, no augmentation, tested on themselves.

Assignment, losses, decoding and COCO's 91-to-80 category mapping are right if a detector learns
these images by heart. Truth comes from the data set itself, with the area of the box as the area of
an object, so the metrics by size are not COCO's. The subset is `det/coco_small` below CASTLING_DET_DATA (default `data`).
"""

dataset_type = 'CocoDataset'
data_root = '{{$CASTLING_DET_DATA:data}}/det/coco_small/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 320), keep_ratio=False),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 320), keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]
images = dict(
    type=dataset_type,
    data_root=data_root,
    ann_file='annotations/instances_train.json',
    data_prefix=dict(img='images/train/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    indices=32,
)

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(images, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(images, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='CocoMetric', metric='bbox')
test_evaluator = val_evaluator
