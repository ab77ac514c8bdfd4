"""A segmentor on one's own label maps, counted in epochs: what `tools/new_config.py` puts beside a model.

Size, classes, folders and epochs stand in the file that it writes. From random weights, 4 images an iteration; rate and
clipping are those of CamVid (docs/studies/castling-segmentation.md).
"""

_base_ = ['../runtimes/segmentation.py', './training.py']

default_hooks = dict(
    logger=dict(log_metric_by_epoch=True), checkpoint=dict(by_epoch=True, interval=1)
)
log_processor = dict(by_epoch=True)

# Of the pipelines, before and after what has a size, which is the leaf's.
before = [dict(type='LoadReadableImage', on_error='skip'), dict(type='LoadAnnotations')]
after = [
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_before = [dict(type='LoadImageFromFile')]
resize = dict(type='Resize', keep_ratio=False)
test_after = [dict(type='LoadAnnotations'), dict(type='PackSegInputs')]

train_dataloader = dict(batch_size=4, dataset=dict(type='BaseSegDataset'))
val_dataloader = dict(batch_size=4, dataset=dict(type='BaseSegDataset', test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, convert_to_iter_based=True),
    dict(type='PolyLR', power=0.9, eta_min=0, convert_to_iter_based=True),
]
optim_wrapper = dict(clip_grad=dict(max_norm=0.01, norm_type=2))
auto_scale_lr = dict(base_batch_size=4)
