"""A classifier on one's own folders of classes: what `tools/new_config.py` puts beside a model.

Size, classes, folders and epochs stand in the file that it writes. From random weights, 16 images an iteration; the rate
is that of the configs for flowers, not tuned.
"""

_base_ = ['../runtimes/classification.py', './training.py']

# Of the pipelines, before and after what has a size, which is the leaf's.
before = [dict(type='LoadReadableImage', on_error='skip')]
after = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_before = [dict(type='LoadImageFromFile')]
test_after = [dict(type='PackInputs')]

# Of images in folders; mmpretrain's own lack two of them.
extensions = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
folders = dict(type='CustomDataset', extensions=extensions)

train_dataloader = dict(batch_size=16, dataset=folders)
val_dataloader = dict(batch_size=16, dataset=dict(folders, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

auto_scale_lr = dict(base_batch_size=16)
