"""YOLOX-tiny, as mmdet ships it, on COCO below CASTLING_DET_DATA (default `data`).

Published: 32.8 mAP (quoted from the authors' README). Status: not run.

    tools/dist_train.sh configs/peers/yolox-tiny_cspdarknet_8xb8-300e_coco-416x416.py 8
"""

_base_ = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'

data_root = '{{$CASTLING_DET_DATA:data}}/coco/'
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
