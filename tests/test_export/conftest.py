"""What the tests of export share: a tiny model of each task; an export takes long."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from castling_det.export import program
from castling_det.export.graph import EXAMPLE_SHAPE, OPEN, trace
from castling_det.inference.trained_model import TrainedModel

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'


SEG_CONFIG = (
    ROOT / 'configs/castling_seg' / 'castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py'
)

MASK2FORMER_CONFIG = (
    ROOT
    / 'configs/castling_mask2former'
    / 'castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256.py'
)

CLS_CONFIG = ROOT / 'configs/castling_cls' / 'castling-cls_levit-nano_1xb16-30e_flowers5-160x160.py'

TINY = dict(embed_dims=(32, 48, 64), num_heads=(2, 3, 4), depths=(1, 0, 0), key_dims=16)
CHANNELS = [16, 32, 48, 64]  # of its four maps


def randomised(cfg: Config, seed: int) -> dict[str, torch.Tensor]:
    """Weights and statistics of batch norms, none of which is 0 or 1."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    for name, value in model.state_dict().items():
        if name.endswith('running_var'):
            value.uniform_(0.5, 2)
        elif value.ndim > 1:
            value.normal_(std=1.25 * value[0].numel() ** -0.5)
        elif value.is_floating_point():
            value.normal_(mean=float(name.endswith('weight')), std=0.3)
    return model.state_dict()


@pytest.fixture(scope='session')
def cfg(tmp_path_factory) -> Config:
    """The nano detector with one block in all; few of its boxes pass the score threshold."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.arch = TINY
    cfg.model.neck.update(in_channels=CHANNELS, out_channels=16)
    cfg.model.bbox_head.update(in_channels=16, stacked_convs=0)
    cfg.model.test_cfg.score_thr = 0.575
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    cfg.dump(path)
    return Config.fromfile(path)


@pytest.fixture(scope='session')
def checkpoint(cfg, tmp_path_factory) -> Path:
    """Of the detector, with its config."""
    checkpoint = tmp_path_factory.mktemp('checkpoint') / 'tiny.pth'
    meta = dict(dataset_meta=dict(classes=[*'abcdef']), cfg=cfg.pretty_text)
    torch.save(dict(state_dict=randomised(cfg, 2), meta=meta), checkpoint)
    return checkpoint


@pytest.fixture(scope='session')
def detector(cfg, checkpoint) -> TrainedModel:
    return TrainedModel(cfg, checkpoint)


@pytest.fixture(scope='session')
def other_detector(cfg, tmp_path_factory) -> TrainedModel:
    """The same model with other weights."""
    checkpoint = tmp_path_factory.mktemp('checkpoint') / 'other.pth'
    torch.save(randomised(cfg, 1), checkpoint)
    return TrainedModel(cfg, checkpoint)


@pytest.fixture(scope='session')
def segmentor(tmp_path_factory) -> TrainedModel:
    """SegFormer's head on the nano backbone with one block in all, where several classes win."""
    cfg = Config.fromfile(SEG_CONFIG)
    cfg.model.backbone.arch = TINY
    cfg.model.decode_head.update(in_channels=CHANNELS, channels=16)
    folder = tmp_path_factory.mktemp('segmentor')
    cfg.dump(folder / 'tiny.py')
    cfg = Config.fromfile(folder / 'tiny.py')
    torch.save(randomised(cfg, 14), folder / 'tiny.pth')
    return TrainedModel(cfg, folder / 'tiny.pth')


@pytest.fixture(scope='session')
def mask2former(tmp_path_factory) -> TrainedModel:
    """Mask2Former-nano on one block, with one layer each of encoder and decoder."""
    cfg = Config.fromfile(MASK2FORMER_CONFIG)
    cfg.model.backbone.arch = dict(embed_dims=64, num_heads=2, depths=1)
    cfg.model.neck.in_channels = 64
    cfg.model.decode_head.transformer_decoder.num_layers = 1
    folder = tmp_path_factory.mktemp('mask2former')
    cfg.dump(folder / 'tiny.py')
    cfg = Config.fromfile(folder / 'tiny.py')
    torch.save(randomised(cfg, 3), folder / 'tiny.pth')
    return TrainedModel(cfg, folder / 'tiny.pth')


@pytest.fixture(scope='session')
def classifier(tmp_path_factory) -> TrainedModel:
    """LeViT with one block in all, tested on 48 px of 64."""
    cfg = Config.fromfile(CLS_CONFIG)
    arch = dict(embed_dims=(32,), num_heads=(2,), depths=(1,), key_dims=16)
    cfg.model.backbone.update(arch=arch, out_indices=(1,))
    cfg.model.head.in_channels = 32
    resize, crop = cfg.test_dataloader.dataset.pipeline[1:3]
    resize.scale, crop.crop_size = 64, 48
    folder = tmp_path_factory.mktemp('classifier')
    cfg.dump(folder / 'tiny.py')
    cfg = Config.fromfile(folder / 'tiny.py')
    torch.save(randomised(cfg, 4), folder / 'tiny.pth')
    return TrainedModel(cfg, folder / 'tiny.pth')


@pytest.fixture(scope='session')
def traced(detector) -> torch.export.ExportedProgram:
    """What both kinds of files of it start from, short of NMS."""
    _, shipped = program.graphs(detector.model, decodes=True, half=False)
    return trace(shipped, (torch.rand(EXAMPLE_SHAPE) * 255, OPEN))


@pytest.fixture(scope='session')
def pixels():
    """Blurred noise ``(batch, height, width, 3)``, uint8, RGB."""

    def make(batch: int, height: int, width: int) -> np.ndarray:
        noise = np.random.default_rng(height).integers(0, 256, (batch, 9, 12, 3), dtype=np.uint8)
        return np.stack([cv2.resize(each, (width, height)) for each in noise])

    return make
