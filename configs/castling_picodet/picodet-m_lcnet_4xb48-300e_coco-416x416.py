"""PicoDet-M with its own backbone and recipe on COCO at 416 px.

PicoDet as of 2022.03, `picodet_m_416_coco_lcnet.yml`, which stops at epoch 250 of the same 300-epoch
cosine (`--cfg-options train_cfg.max_epochs=250`; a warning about T_max is expected) and starts from an
ImageNet backbone; ours is random unless `model.backbone.init_cfg` names a checkpoint.
Published: 37.5 mAP (quoted). Status: not run.

lr 0.24 is for 4 GPUs with 48 images each; `--auto-scale-lr` adapts it. Hours on GPUs: *not run*, `--dry-run`
estimates them. On two CPU threads 300 epochs would take 5,912 hours at the 1.7 images a second of
one dry run here (one training step of 8 images).

    tools/dist_train.sh configs/castling_picodet/picodet-m_lcnet_4xb48-300e_coco-416x416.py 4
"""

_base_ = [
    '../_base_/models/picodet_lcnet.py',
    '../_base_/datasets/coco_416x416.py',
    '../_base_/schedules/picodet_300e.py',
    '../_base_/runtimes/detection.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(
                type='BatchSyncRandomResize',
                random_size_range=(352, 480),
                size_divisor=32,
                interval=1,
            )
        ]
    ),
    backbone=dict(scale=1.5),
    neck=dict(in_channels=[192, 384, 768], out_channels=128),
    bbox_head=dict(in_channels=128, stacked_convs=4),
)
train_dataloader = dict(batch_size=48)
optim_wrapper = dict(optimizer=dict(lr=0.24))
auto_scale_lr = dict(base_batch_size=192)
