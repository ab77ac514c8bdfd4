"""Peers that mmdet, mmseg and mmpretrain ship: published counts, a training step, our data root."""

from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine import MessageHub
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from castling_det.analysis.complexity import count_complexity

CONFIGS = Path(__file__).parents[2] / 'configs' / 'peers'
README = (CONFIGS.parent / 'castling_picodet' / 'README.md').read_text()
CLS_README = (CONFIGS.parent / 'castling_cls' / 'README.md').read_text()
NANO = CONFIGS / 'yolox-nano_cspdarknet_8xb8-300e_coco-416x416.py'
TINY = CONFIGS / 'yolox-tiny_cspdarknet_8xb8-300e_coco-416x416.py'
RTMDET = CONFIGS / 'rtmdet-tiny_cspnext_8xb32-300e_coco-640x640.py'
PEERS = sorted(CONFIGS.glob('*.py'))
DETECTORS = sorted(CONFIGS.glob('*_coco-*.py'))


def build(path: Path, pretrained: bool = True) -> nn.Module:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    if not pretrained:
        cfg.model.backbone.init_cfg = None
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def count_normalised(model: nn.Module, image: Tensor) -> int:
    """Values that batch norms write for one image."""
    counts = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, args, out: counts.append(out.numel()))
    with torch.no_grad():
        model.eval()
        model(image)
    return sum(counts)


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize(
    ('path', 'params', 'flops'), [(NANO, 0.91, 1.08), (TINY, 5.06, 6.45)], ids=['nano', 'tiny']
)
def test_yolox_counts_to_each_published_digit(path, params, flops):
    """Its authors' counter takes two operations for each normalised value, and prints 2 x MACs."""
    model, image = build(path), torch.rand(1, 3, 416, 416)
    complexity = count_complexity(model, image)
    assert round(complexity.params / 1e6, 2) == params
    with_norms = complexity.macs + 2 * count_normalised(model, image)
    assert round(2 * with_norms / 1e9, 2) == flops
    assert f'| {params} | {params} | {complexity.macs / 1e9:.3f} | {flops / 2:.3f} |' in README


@pytest.mark.usefixtures('weights_of_zeros')
def test_rtmdet_counts_are_the_published_ones():
    complexity = count_complexity(build(RTMDET), torch.rand(1, 3, 640, 640))
    params, macs = complexity.params / 1e6, complexity.macs / 1e9
    assert params == pytest.approx(4.8, abs=0.1)
    assert macs == pytest.approx(8.1, rel=0.01)
    assert f'| {params:.2f} | 4.8 | {macs:.3f} | 8.1 |' in README


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize('letter', ['t', 's', 'b'])
def test_swin_counts_are_the_published_ones(letter):
    """To each digit that its authors print."""
    published = dict(t=(28, 4.5), s=(50, 8.7), b=(88, 15.4))[letter]
    path = CONFIGS / f'cls_swin-{letter}_8xb128-300e_in1k-224x224.py'
    complexity = count_complexity(build(path), torch.rand(1, 3, 224, 224))
    params, macs = complexity.params / 1e6, complexity.macs / 1e9
    assert (round(params), round(macs, 1)) == published
    assert f'| {params:.2f} | {published[0]} | {macs:.3f} | {published[1]} |' in CLS_README


def test_backbones_of_mmdet_in_the_heads_of_mmseg_give_a_loss(labelled_images):
    for path in sorted(CONFIGS.glob('*_ade20k-*.py')):
        model = build(path, pretrained=False)
        model.data_preprocessor.size = (64, 96)
        data = model.data_preprocessor(labelled_images((64, 96), 150), True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        loss.backward()
        assert torch.isfinite(loss), path.stem


@pytest.mark.parametrize('path', DETECTORS, ids=lambda path: path.stem)
def test_trains_and_predicts_without_network_and_gpu(path, monkeypatch):
    hub = MessageHub('peers')
    hub.update_info('iter', 0)  # as a Runner does; YOLOX changes the image size by it
    monkeypatch.setattr(MessageHub, 'get_current_instance', lambda: hub)
    model = build(path, pretrained=False)
    model.init_weights()
    data = demo_mm_inputs(2, [(3, 96, 128)] * 2, num_items=[3, 1], num_classes=80)
    loss, _ = model.parse_losses(model.forward(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    with torch.no_grad():
        model.eval()
        results = model.forward(**model.data_preprocessor(data, False), mode='predict')
    for result in results:
        boxes, scores = result.pred_instances.bboxes, result.pred_instances.scores
        assert boxes.shape == (len(scores), 4)
        assert torch.isfinite(boxes).all() and ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize('path', PEERS, ids=lambda path: path.stem)
def test_data_lie_below_the_environment_variable(path, monkeypatch):
    monkeypatch.setenv('CASTLING_DET_DATA', '/elsewhere')
    cfg = Config.fromfile(path)
    train = cfg.train_dataloader.dataset
    train = train.get('dataset', train)  # YOLOX wraps it
    for dataset in (train, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        assert dataset.data_root.startswith('/elsewhere/')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.get('ann_file', '/elsewhere/').startswith('/elsewhere/')
