"""Runtime of segmentors: mmseg's scope and hooks, counted in iterations."""

custom_imports = dict(
    imports=['castling_det', 'castling_det.segmentation', 'castling_det.datasets.loading'],
    allow_failed_imports=False,
)
default_scope = 'mmseg'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook',
        by_epoch=False,
        interval=1000,
        max_keep_ckpts=1,
        save_best='auto',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='OverlayHook'),
)
custom_hooks = [
    dict(type='CastlingHook'),
    dict(type='ResumeHook'),  # a resumed training repeats the uninterrupted one
    dict(type='FiniteLossHook'),  # NaN stops it, with the images named
    dict(type='CheckpointFitHook'),  # the weights of another model stop it
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
sync_bn = 'torch'  # over the processes of several GPUs
tta_model = dict(type='SegTTAModel')
visualizer = dict(
    type='LegendVisualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')]
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
randomness = dict(seed=0)
log_level = 'INFO'
load_from = None
resume = False
