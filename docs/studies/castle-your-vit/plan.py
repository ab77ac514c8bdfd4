"""A trained ViT-S/14 made linear: CamVid at 336x252 px with a light head.

Arms, size, learning rates and seeds were written down before the first run; iterations, class
weights and the head's rate after trials of the softmax twin alone, seed 100. All arms train under
bfloat16 autocast. The weights of 'focal distilled' are made once, of the training images without
labels, by tools/distill.py with 150 iterations.
"""

base = 'configs/castling_timm/castling-fcn_vit-s-p14-dinov2-pre_1xb4-400i_camvid-252x336.py'
metric = 'mIoU'
lrs = [0.0001, 0.0002, 0.0004]
seeds = [0, 1, 2]
reference = 'softmax twin'

ATTN, PRETRAINED = 'model.backbone.attn', 'model.backbone.pretrained'
WEIGHTS = '{{$CASTLING_DET_WEIGHTS:checkpoints}}/vit_s14.safetensors'
COMMON = {'optim_wrapper.type': 'BFloat16OptimWrapper', PRETRAINED: WEIGHTS}
arms = {
    'softmax twin': dict(
        options={**COMMON, ATTN: dict(_delete_=True, type='SoftmaxAttention')},
        tuned_as='softmax twin',
    ),
    'published form': dict(
        options={**COMMON, ATTN: dict(_delete_=True, type='CastlingAttention', aux=None)},
        tuned_as='published form',
    ),
    'castled as published': dict(
        options={**COMMON, ATTN: dict(_delete_=True, type='CastlingAttention')},
        tuned_as='published form',
    ),
    'focal': dict(options=COMMON, tuned_as='focal'),
    'focal distilled': dict(
        options={**COMMON, PRETRAINED: 'work_dirs/distilled.pth'}, tuned_as='focal'
    ),
}
del ATTN, PRETRAINED, WEIGHTS, COMMON
