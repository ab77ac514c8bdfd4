"""RetinaNet with Swin-T, all of mmdet, on COCO at 640 px, beside that with Castling-MViTv2-T.

The weights of ImageNet are a local file. Data and schedule are those of
`castling_mvit/castling-retinanet_mvit-t-in1k-pre_8xb8-36e_coco-640x640`, the rate is the same in all layers.
Status: not run.

    bash tools/dist_train.sh configs/peers/retinanet_swin-t_8xb8-36e_coco-640x640.py 8 --amp
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
        type='SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,
        convert_weights=True,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/swin_tiny_patch4_window7_224.pth'),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0)},
    ),
)
