"""Which detector learns from few images: GFL's head or PicoDet's neck and heads on DINOv2 ViT-S/14.

Both start from random weights on castlified trained ones; blood cells at 196 px, 9 epochs of 205
images, the same recipe. Arms, seeds and the rule of the verdict (win or loss beyond two standard
errors of the paired mean, else a tie) were written down before the first run of this plan, after
trials on frozen maps of the backbone had chosen GFL's pyramid and its one convolution. The rate is
that of the configs for both: it was tuned for neither. All trainings are under bfloat16 autocast.
"""

base = 'configs/castling_timm/castling-gfl_vit-s-p14-dinov2-pre_1xb8-9e_bccd-196x196.py'
metric = 'coco/bbox_mAP'
lrs = [0.0001]
seeds = [0, 1, 2]
reference = 'PicoDet'

COMMON = {
    'optim_wrapper.type': 'BFloat16OptimWrapper',
    'model.backbone.pretrained': '{{$CASTLING_DET_WEIGHTS:checkpoints}}/vit_s14.safetensors',
}
STRIDES = dict(
    type='AnchorGenerator',
    ratios=[1.0],
    octave_base_scale=5,
    scales_per_octave=1,
    strides=[7, 14, 28, 56],
    center_offset=0.5,
)
PICODET = {
    'model.type': 'SingleStageDetector',
    'model.neck': [
        dict(type='SimpleFeaturePyramid', in_channels=384, out_channels=128, levels=(1, 2, 3)),
        dict(type='LCPAN', in_channels=[128, 128, 128], out_channels=128),
    ],
    'model.bbox_head': dict(
        _delete_=True,
        type='PicoHead',
        num_classes=3,
        in_channels=128,
        stacked_convs=2,
        anchor_generator=STRIDES,
        loss_cls=dict(
            type='VarifocalLoss', use_sigmoid=True, alpha=0.75, gamma=2.0, iou_weighted=True
        ),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.5),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.5),
    ),
    'model.train_cfg': dict(
        _delete_=True,
        initial_epoch=3,
        initial_assigner=dict(type='ATSSAssigner', topk=9),
        assigner=dict(type='TaskAlignedAssigner', topk=13),
        alpha=1,
        beta=6,
        allowed_border=-1,
        pos_weight=-1,
    ),
}
arms = {
    'PicoDet': dict(options={**COMMON, **PICODET}, tuned_as='PicoDet'),
    'GFL': dict(options=COMMON, tuned_as='GFL'),
}
del COMMON, STRIDES, PICODET
