"""What MAE buys on CamVid: Mask2Former-nano on ViT-nano, from random weights and from MAE's.

It asks for the slides' two rows at our scale: mIoU without and with MAE, of castled and of its
softmax twin. Arms, learning rates, seeds and the rule of the verdict (win or loss beyond two
standard errors of the paired mean, else a tie) were written down before the first run. Each arm has
its own learning rate, because trained weights may want a smaller one than random weights; while the
best of an arm is the highest or the lowest tried, the next is added for all.

Each attention is pretrained once, with seed 0, on the training images of flowers and CamVid; the
seeds are of CamVid's training alone::

    python tools/train.py configs/castling_mae/NAME_vit-nano_1xb32-200e_flowers5-camvid-192x192.py

with NAME `mae` and `castling-mae`. What is loaded is the encoder whole, its positions resized from
12x12 to 12x16.
"""

base = (
    'configs/castling_mask2former/castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256.py'
)
metric = 'mIoU'
lrs = [0.0005, 0.001, 0.002]
seeds = [0, 1, 2]
reference = 'softmax twin'

FILE = 'work_dirs/{}_vit-nano_1xb32-200e_flowers5-camvid-192x192/epoch_200.pth'
TWIN = {'model.backbone.attn': dict(_delete_=True, type='SoftmaxAttention')}
TWIN_MAE, CASTLED_MAE = (
    {'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=file, prefix='backbone')}
    for file in (FILE.format('mae'), FILE.format('castling-mae'))
)
arms = {
    'softmax twin': dict(options=TWIN, tuned_as='softmax twin'),
    'softmax twin from MAE': dict(options={**TWIN, **TWIN_MAE}, tuned_as='softmax twin from MAE'),
    'castled': dict(options={}, tuned_as='castled'),
    'castled from MAE': dict(options=CASTLED_MAE, tuned_as='castled from MAE'),
}
del FILE, TWIN, TWIN_MAE, CASTLED_MAE
