"""Castled against its softmax twin: flowers at 160 px, LeViT-nano from random weights.

Arms, size, epochs (30), learning rates, seeds and the rule of the verdict (win or loss beyond two
standard errors of the paired mean, else a tie) were written down before the first run. The plans of
the three families differ in the backbone alone.
"""

base = 'configs/castling_cls/castling-cls_levit-nano_1xb16-30e_flowers5-160x160.py'
metric = 'accuracy/top1'
lrs = [0.0005, 0.001, 0.002]
seeds = [0, 1, 2]
reference = 'softmax twin'

ATTN = 'model.backbone.attn'
arms = {
    'softmax twin': dict(
        options={
            ATTN: dict(_delete_=True, type='SoftmaxAttention'),
            'model.backbone.bias_grid': 10,
        },
        tuned_as='softmax twin',
    ),
    'castled': dict(options={}, tuned_as='castled'),
    'linear-angular': dict(options={f'{ATTN}.aux': None}, tuned_as='castled'),
}
del ATTN
