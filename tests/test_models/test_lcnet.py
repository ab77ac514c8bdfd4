"""LCNet, and with it the proof that neck and head have PicoDet's sizes: the published counts."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from castling_det.analysis.complexity import Complexity, count_complexity
from castling_det.detection import LCNet
from castling_det.errors import InputError

CONFIGS = Path(__file__).parents[2] / 'configs' / 'castling_picodet'
README = (CONFIGS / 'README.md').read_text()
COCO = sorted(CONFIGS.glob('picodet-?_lcnet_*_coco-*.py'))

# PaddleDetection, configs/picodet/README_en.md: params in M, then for each input size G "FLOPS",
# which are 2 x MACs.
PUBLISHED = {
    'xs': (0.70, {320: 0.67, 416: 1.13}),
    's': (1.18, {320: 0.97, 416: 1.65}),
    'm': (3.46, {320: 2.57, 416: 4.34}),
    'l': (5.80, {320: 4.20, 416: 7.10, 640: 16.81}),
}


def detector(size: str) -> nn.Module:
    """PicoDet of one size; -XS is -S with narrower maps from the backbone."""
    (config,) = CONFIGS.glob(f'picodet-{"s" if size == "xs" else size}_lcnet_*_coco-*.py')
    cfg = Config.fromfile(config)
    if size == 'xs':
        cfg.model.backbone.scale = 0.35
        cfg.model.neck.in_channels = [48, 88, 176]
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def readme_row(side: int, ours: Complexity, params: float, macs: float) -> str:
    """What the table of peers says of a model, without its name."""
    ours_params, ours_macs = ours.params / 1e6, ours.macs / 1e9
    return f'| {side} | {ours_params:.2f} | {params:.2f} | {ours_macs:.3f} | {macs:.3f} |'


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize('size', PUBLISHED)
def test_detector_equals_the_nine_published_rows(size):
    params, flops = PUBLISHED[size]
    model = detector(size)
    for side, published in flops.items():
        complexity = count_complexity(model, torch.rand(1, 3, side, side))
        assert complexity.params / 1e6 == pytest.approx(params, rel=0.02)
        assert 2 * complexity.macs / 1e9 == pytest.approx(published, rel=0.02)
        assert readme_row(side, complexity, params, published / 2) in README


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize(
    ('scale', 'published'),
    [(0.25, 1.52), (0.35, 1.65), (0.5, 1.89), (0.75, 2.37)]
    + [(1.0, 2.96), (1.5, 4.52), (2.0, 6.54), (2.5, 9.04)],
)
def test_backbone_equals_the_published_classifiers(scale, published):
    """To each printed digit of PaddleClas, which counts the running statistics of norms too."""
    model = LCNet(scale)
    params = sum(p.numel() for p in model.parameters())
    params += sum(b.numel() for b in model.buffers() if b.dim())
    width = model.blocks6[-1].pw_conv.conv.out_channels
    classifier = width * 1280 + (1280 + 1) * 1000
    assert round((params + classifier) / 1e6, 2) == published


@pytest.mark.parametrize(
    ('out_indices', 'channels', 'strides'),
    [((2, 3, 4), (48, 88, 176), (8, 16, 32)), ((0, 4), (16, 176), (2, 32))],
)
@pytest.mark.parametrize(('height', 'width'), [(99, 177), (64, 96)])
def test_maps_of_any_image_size(out_indices, channels, strides, height, width):
    outs = LCNet(0.35, out_indices).eval()(torch.rand(2, 3, height, width))
    assert [tuple(x.shape) for x in outs] == [
        (2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, strides, strict=True)
    ]


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = LCNet(0.35)
    outs = model(torch.randn(2, 3, 99, 177))
    sum((x * torch.randn_like(x)).sum() for x in outs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_starts_from_the_fan_in_or_from_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = LCNet(2.0)
    model.init_weights()
    for conv, fan_in in ((model.conv1.conv, 27), (model.blocks5[1].dw_conv.conv, 25)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)

    torch.save(model.state_dict(), tmp_path / 'lcnet.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'lcnet.pth'))
    loaded = LCNet(2.0, init_cfg=init_cfg)
    loaded.init_weights()
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), loaded.parameters(), strict=True)
    )
    with pytest.raises(InputError, match=r'lcnet\.pth does not fit LCNet: .*\(16, 3, 3, 3\)'):
        LCNet(1.0, init_cfg=init_cfg).init_weights()
    torch.save(
        {k: v for k, v in model.state_dict().items() if '.se.' not in k}, init_cfg['checkpoint']
    )
    with pytest.raises(
        InputError, match=r'lcnet\.pth does not fit LCNet: .*blocks6\.\*\.se\.conv1'
    ):
        loaded.init_weights()


@pytest.mark.parametrize('path', COCO, ids=lambda path: path.stem)
def test_recipe_keeps_the_published_ratio_of_lr_to_batch(path):
    cfg = Config.fromfile(path)
    batch = 4 * cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.32 * batch / 256)


def test_blood_cell_baseline_differs_in_the_backbone_alone():
    castling = 'castling-picodet_levit-128s_1xb8-60e_bccd-320x320.py'
    ours, theirs = (
        Config.fromfile(CONFIGS / name)
        for name in (castling, 'picodet-s_lcnet_1xb8-60e_bccd-320x320.py')
    )
    for cfg in (ours, theirs):
        cfg.model.pop('backbone')
        cfg.model.neck.pop('in_channels')
    assert ours.to_dict() == theirs.to_dict()
