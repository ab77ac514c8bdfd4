"""Castled against its softmax twin: flowers at 160 px, three nano families from random weights.

Arms, sizes, epochs, learning rates, seeds and the rule of the verdict (win or loss beyond two
standard errors of the paired mean, else a tie) were written down before the first run of a family.
One rule came after the first rates: while the best of an arm is the highest or the lowest tried,
the next is added for both. The plans of the families differ in the backbone, in these rates and in
the epochs: LeViT-nano trains for 30, ViT-nano and MViTv2-nano, whose epochs take longer, for 15.
"""

metric = 'accuracy/top1'
lrs = [0.0005, 0.001, 0.002]
seeds = [0, 1, 2]
reference = 'softmax twin'

ATTN = 'model.backbone.attn'
arms = {
    'softmax twin': dict(
        options={ATTN: dict(_delete_=True, type='SoftmaxAttention')},
        tuned_as='softmax twin',
    ),
    'castled': dict(options={}, tuned_as='castled'),
    'linear-angular': dict(options={f'{ATTN}.aux': None}, tuned_as='castled'),
}
del ATTN
