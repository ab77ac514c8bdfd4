"""mmseg's Semantic FPN with mmdet's PVTv2-B2 on ADE20K at 512 px.

The weights of ImageNet are a local file. The rate is the same in all layers. Status: not run.

    bash tools/dist_train.sh configs/peers/fpn_pvtv2-b2_8xb2-160k_ade20k-512x512.py 8 --amp
"""

_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/runtimes/segmentation.py',
]

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='mmdet.PyramidVisionTransformerV2',
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/pvt_v2_b2.pth'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=150),
)
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0, bias_decay_mult=0),
)
