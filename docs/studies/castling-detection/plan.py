"""What each part of castling buys: blood cells (BCCD) at 160 px, 128S with PicoDet from scratch.

Arms, size (160 px), epochs (40), learning rates, seeds and the rule of the verdict (win or loss
beyond two standard errors of the paired mean, else a tie) were written down before the first run.
The trial that sized it: 0.25 to 0.46 s of CPU time an iteration of the twin at 128 to 192 px, so
about seven minutes a run of 1,040 iterations on one thread.

Changes since: while the best learning rate of a tuned arm was the highest tried, the next was added
for both tuned arms: 0.004, 0.008 and 0.016 after results of the twin, 0.032 after those of castled.
The twin's two worst, 0.0005 and 0.001 (mAP 0.348 and 0.383), were dropped before castled began.
Two other forms of the attention were arms too, one seed each: docs/studies/attention-forms.md.
'no mixing', which tells how much attention matters here at all, was added after seed 0.
"""

base = 'configs/castling_picodet/castling-picodet_levit-128s_1xb8-40e_bccd-160x160.py'
metric = 'coco/bbox_mAP'
lrs = [0.002, 0.004, 0.008, 0.016, 0.032]
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
    'linear-angular alone': dict(
        options={f'{ATTN}.kernel_size': None, f'{ATTN}.aux': None}, tuned_as='castled'
    ),
    'with convolution': dict(options={f'{ATTN}.aux': None}, tuned_as='castled'),
    'with aux kept': dict(
        options={'custom_hooks.0.curve': 'constant'}, tuned_as='castled', form='training'
    ),
    'no mixing': dict(
        options={ATTN: dict(_delete_=True, type='NoMixing')}, tuned_as='castled', seeds=[0]
    ),
}
del ATTN
