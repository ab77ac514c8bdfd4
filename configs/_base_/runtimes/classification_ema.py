"""Runtime of classifiers of which an average of the weights is evaluated, as LeViT's."""

_base_ = './classification.py'

custom_hooks = [
    dict(type='CastlingHook'),
    dict(type='ResumeHook'),
    dict(type='FiniteLossHook'),
    dict(type='CheckpointFitHook'),
    # mmpretrain has a hook of this name that loads nothing in a test with --tta.
    dict(type='mmengine.EMAHook', momentum=0.00004, update_buffers=True, priority='ABOVE_NORMAL'),
]
