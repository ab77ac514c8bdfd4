"""ADE20K (SceneParse150) in crops of 560 px: 150 classes, see docs/ade20k.md.

Root: CASTLING_DET_DATA (default `data`) with `ade/ADEChallengeData2016` below it. Augmented as Mask2Former
does: short side 0.5 to 2.0 times 560 px, a crop that one class may fill, flips, colours.
"""

_base_ = './ade20k.py'

train_pipeline = [
    dict(type='LoadReadableImage', on_error='skip'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize',
        scales=[int(560 * tenths / 10) for tenths in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=2240,
    ),
    dict(type='RandomCrop', crop_size=(560, 560)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2240, 560), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2240 * ratio), int(560 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
