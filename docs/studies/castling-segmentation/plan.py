"""What castling buys in segmentation: CamVid at 256x192 px, ViT-nano and Mask2Former-nano.

Arms, size, iterations (1,500 of 4 images, 16 epochs), learning rates, seeds and the rule of the
verdict (win or loss beyond two standard errors of the paired mean, else a tie) were written down
before the first run. The trial that sized it: 0.5 s of CPU time an iteration, so about 13 minutes a
run on one thread; in it, no softmax entry of castled's 192 tokens was above the published threshold
0.02, hence the arm 'castled t0 at the mean', whose threshold begins at the mean of the entries.

While the best learning rate of a tuned arm is the highest or the lowest tried, the next is added
for both ('the lowest' came into the rule after 0.0005 and 0.001 of the twin, 35.3 and 35.1); 0.004
was added when 0.002 was the twin's best.
"""

base = (
    'configs/castling_mask2former/castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256.py'
)
metric = 'mIoU'
lrs = [0.0005, 0.001, 0.002, 0.004]
seeds = [0, 1, 2]
reference = 'softmax twin'

ATTN = 'model.backbone.attn'
arms = {
    'softmax twin': dict(
        options={ATTN: dict(_delete_=True, type='SoftmaxAttention')}, tuned_as='softmax twin'
    ),
    'castled': dict(options={}, tuned_as='castled'),
    'linear-angular alone': dict(
        options={f'{ATTN}.kernel_size': None, f'{ATTN}.aux': None}, tuned_as='castled'
    ),
    # One seed each, and three if that is better than castled's; the control gets one. Two other
    # forms of the attention were such arms too: docs/studies/attention-forms.md.
    'castled t0 at the mean': dict(
        options={f'{ATTN}.aux': dict(threshold=1 / 192)}, tuned_as='castled', seeds=[0]
    ),
    'castled Feature2Pyramid': dict(
        options={
            'model.backbone.out_indices': (1, 2, 3, 5),
            'model.backbone.final_norm': False,
            'model.neck': dict(
                _delete_=True, type='Feature2Pyramid', embed_dim=128, norm_cfg=dict(type='BN')
            ),
            'model.decode_head.in_channels': [128, 128, 128, 128],
        },
        tuned_as='castled',
        seeds=[0],
    ),
    'no mixing': dict(
        options={ATTN: dict(_delete_=True, type='NoMixing')}, tuned_as='castled', seeds=[0]
    ),
}
del ATTN
