"""COCO's panoptic labels as maps of 133 classes, 80 things and 53 kinds of stuff, at 256 px.

100 training and 57 validation images. In the label maps 0 is unlabelled and ignored, as in ADE20K.
"""

dataset_type = 'BaseSegDataset'
data_root = '{{$CASTLING_DET_DATA:data}}/seg/coco133/'
class_names = (
    'person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, '
    'fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, '
    'elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, '
    'snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, '
    'tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, '
    'orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, '
    'dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, '
    'toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, '
    'toothbrush, banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, '
    'flower, fruit, gravel, house, light, mirror-stuff, net, pillow, platform, playingfield, '
    'railroad, river, road, roof, sand, sea, shelf, snow, stairs, tent, towel, wall-brick, '
    'wall-stone, wall-tile, wall-wood, water-other, window-blind, window-other, tree-merged, '
    'fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged, '
    'floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged, '
    'paper-merged, food-other-merged, building-other-merged, rock-merged, wall-other-merged, '
    'rug-merged'
)
metainfo = dict(classes=tuple(class_names.split(', ')))

train_pipeline = [
    dict(type='LoadReadableImage', on_error='skip'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(256, 256), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(256, 256), keep_ratio=True)],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        metainfo=metainfo,
        reduce_zero_label=True,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        test_mode=True,
        metainfo=metainfo,
        reduce_zero_label=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
