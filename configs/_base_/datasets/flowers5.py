"""Five kinds of flowers, a folder each: 675 training and 225 validation images. Root: CASTLING_DET_DATA (default `data`)."""

dataset_type = 'CustomDataset'
data_root = '{{$CASTLING_DET_DATA:data}}/cls/flowers5/'
metainfo = dict(classes=('daisy', 'dandelion', 'roses', 'sunflowers', 'tulips'))

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, data_prefix='train', metainfo=metainfo),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix='val', metainfo=metainfo, test_mode=True
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
