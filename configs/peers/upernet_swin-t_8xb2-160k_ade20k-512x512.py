"""UPerNet with Swin-T, mmdet's, and mmseg's head on ADE20K at 512 px.

The weights of ImageNet are a local file. The rate is the same in all layers. Published, by mmseg's own recipe: 44.41
mIoU (quoted from its README). Status: not run.

    bash tools/dist_train.sh configs/peers/upernet_swin-t_8xb2-160k_ade20k-512x512.py 8 --amp
"""

_base_ = [
    'mmseg::_base_/models/upernet_swin.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/runtimes/segmentation.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type='mmdet.SwinTransformer',  # which converts the authors' keys
        convert_weights=True,
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/swin_tiny_patch4_window7_224.pth'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=150),
    auxiliary_head=dict(in_channels=384, num_classes=150),
)
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0)},
    ),
)
