"""A detector on one's own COCO json: what `tools/new_config.py` puts beside a model.

Size, classes, files and epochs stand in the file that it writes. From random weights, 8 images an iteration; the rate is
the lower end of those that were as good as the best on blood cells (docs/studies/castling-detection.md).
"""

_base_ = ['../runtimes/detection.py', './training.py']

# What a LeViT takes besides; its sizes are the leaf's too.
multi_scale = dict(type='BatchSyncRandomResize', size_divisor=32, interval=1)
# Of the pipelines, before and after the Resize, whose size is the leaf's.
before = [
    dict(type='LoadReadableImage', on_error='skip'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
]
after = [dict(type='PackDetInputs')]
test_before = [dict(type='LoadImageFromFile')]
test_after = [
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=8,
    dataset=dict(type='CocoDataset', filter_cfg=dict(filter_empty_gt=True, min_size=32)),
)
val_dataloader = dict(batch_size=8, dataset=dict(type='CocoDataset', test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', metric='bbox', classwise=True)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=0.004, weight_decay=0.025))
auto_scale_lr = dict(base_batch_size=8)
