"""Every config parses and builds; one nano of each attention trains and predicts."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope

import castling_det  # noqa: F401  registers types and makes `castling_det::` configs known

CONFIGS = sorted((Path(__file__).parents[1] / 'configs' / 'castling_picodet').glob('*.py'))
NANO = [path for path in CONFIGS if 'levit-nano' in path.stem]


def build(path: Path) -> tuple[Config, torch.nn.Module]:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_model_fits_its_data(path):
    cfg, model = build(path)
    classes = cfg.get('metainfo', {}).get('classes')
    assert model.bbox_head.num_classes == (len(classes) if classes else 80)
    size = int(path.stem.rpartition('x')[2])
    assert cfg.test_pipeline[1].scale == (size, size) if 'test_pipeline' in cfg else True
    maps = model.eval().extract_feat(torch.rand(1, 3, 96, 128))
    assert [tuple(x.shape[-2:]) for x in maps] == [(12, 16), (6, 8), (3, 4), (2, 2)]


@pytest.mark.parametrize(
    'castling', [p for p in CONFIGS if p.stem.startswith('castling-')], ids=str
)
def test_softmax_twin_differs_in_attention_alone(castling):
    twin_path = castling.with_name(castling.name.removeprefix('castling-'))
    if not twin_path.exists():
        assert 'coco32' in castling.stem, 'every trained castling config has its softmax twin'
        return
    ours, twin = Config.fromfile(castling), Config.fromfile(twin_path)
    assert twin.model.backbone.pop('attn') == dict(type='SoftmaxAttention')
    assert ours.model.backbone.pop('attn') == dict(type='CastlingAttention')
    assert ours.to_dict() == twin.to_dict()


@pytest.mark.parametrize('path', NANO, ids=lambda path: path.stem)
@pytest.mark.parametrize('size', [(160, 160), (96, 224)], ids=str)
def test_nano_trains_and_predicts(path, size):
    _, model = build(path)
    model.init_weights()
    data = demo_mm_inputs(2, [(3, *size)] * 2, num_items=[3, 1], num_classes=6)
    loss, _ = model.parse_losses(model.forward(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    expected = 'no-mixing' in path.stem  # queries and keys have nothing to do there
    assert bool(missing) == expected, missing

    with torch.no_grad():
        model.eval()
        results = model.forward(**model.data_preprocessor(data, False), mode='predict')
    for result in results:
        boxes, scores = result.pred_instances.bboxes, result.pred_instances.scores
        assert boxes.shape == (len(scores), 4) and len(scores) <= 100
        assert ((scores > 0.025) & (scores < 1)).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_inherits_from_the_installed_package(tmp_path):
    leaf = tmp_path / 'mine.py'
    leaf.write_text(
        f"_base_ = 'castling_det::castling_picodet/{NANO[0].name}'\n"
        'model = dict(bbox_head=dict(num_classes=2))\n'
    )
    _, model = build(leaf)
    assert model.bbox_head.num_classes == 2
