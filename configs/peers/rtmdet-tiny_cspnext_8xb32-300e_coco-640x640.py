"""RTMDet-tiny, as mmdet ships it, on COCO below CASTLING_DET_DATA (default `data`).

Its backbone starts from ImageNet; here it is random unless `model.backbone.init_cfg` names a local
checkpoint. Batch norm becomes synchronised by itself where there are several processes.
Published: 41.0 mAP (quoted from mmyolo's README). Status: not run.

    tools/dist_train.sh configs/peers/rtmdet-tiny_cspnext_8xb32-300e_coco-640x640.py 8
"""

_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),  # its file takes any size by it
    backbone=dict(init_cfg=None, norm_cfg=dict(type='BN')),
    neck=dict(norm_cfg=dict(type='BN')),
    bbox_head=dict(norm_cfg=dict(type='BN')),
)
data_root = '{{$CASTLING_DET_DATA:data}}/coco/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
auto_scale_lr = dict(base_batch_size=256)  # mmdet's base says 16, but lr 0.004 is for 8 x 32
