"""RetinaNet with PVTv2-B2, all of mmdet, on COCO at 640 px, beside that with Castling-MViTv2-T.

The weights of ImageNet are a local file. Data and schedule are those of
`castling_mvit/castling-retinanet_mvit-t-in1k-pre_8xb8-36e_coco-640x640`, the rate is the same in all layers.
Status: not run.

    bash tools/dist_train.sh configs/peers/retinanet_pvtv2-b2_8xb8-36e_coco-640x640.py 8 --amp
"""

_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/coco_640x640.py',
    '../_base_/schedules/coco_36e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionTransformerV2',
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/pvt_v2_b2.pth'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0),
)
