"""PicoDet-L with its own backbone and recipe on COCO at 640 px.

PicoDet as of 2022.03, `picodet_l_640_coco_lcnet.yml`, which stops at epoch 200 of the same 300-epoch
cosine (`--cfg-options train_cfg.max_epochs=200`; a warning about T_max is expected) and starts from an
ImageNet backbone; ours is random unless `model.backbone.init_cfg` names a checkpoint.
Published: 42.6 mAP (quoted). Status: not run.

lr 0.06 is for 4 GPUs with 12 images each; `--auto-scale-lr` adapts it. Hours on GPUs: *not run*, `--dry-run`
estimates them. On two CPU threads 300 epochs would take 22,232 hours at the 0.44 images a second of
one dry run here (one training step of 8 images).

    tools/dist_train.sh configs/castling_picodet/picodet-l_lcnet_4xb12-300e_coco-640x640.py 4
"""

_base_ = [
    '../_base_/models/picodet_lcnet.py',
    '../_base_/datasets/coco_640x640.py',
    '../_base_/schedules/picodet_300e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(
                type='BatchSyncRandomResize',
                random_size_range=(576, 704),
                size_divisor=32,
                interval=1,
            )
        ]
    ),
    backbone=dict(scale=2.0),
    neck=dict(in_channels=[256, 512, 1024], out_channels=160),
    bbox_head=dict(in_channels=160, stacked_convs=4),
)
train_dataloader = dict(batch_size=12)
optim_wrapper = dict(optimizer=dict(lr=0.06))
auto_scale_lr = dict(base_batch_size=48)
