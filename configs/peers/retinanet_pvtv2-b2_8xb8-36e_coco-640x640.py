"""RetinaNet with PVTv2-B2, all of mmdet, on COCO at 640 px, by the recipe of `retinanet_swin-t_8xb8-36e_coco-640x640`.

Status: not run.

    bash tools/dist_train.sh configs/peers/retinanet_pvtv2-b2_8xb8-36e_coco-640x640.py 8 --amp
"""

_base_ = './retinanet_swin-t_8xb8-36e_coco-640x640.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionTransformerV2',
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/pvt_v2_b2.pth'),
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
