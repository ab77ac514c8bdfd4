"""Configs of classifiers: sizes and twins; each family trains and predicts."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmpretrain.structures import DataSample
from torch import nn

import castling_det  # noqa: F401  registers types and makes `castling_det::` configs known
from castling_det.configs import input_shape, softmax_twin, task_of

LEAVES = sorted((Path(__file__).parents[1] / 'configs' / 'castling_cls').glob('*.py'))
CASTLING = [path for path in LEAVES if path.stem.startswith('castling-')]


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_model_fits_its_data(path):
    cfg = Config.fromfile(path)
    assert task_of(cfg) == 'classification'
    assert input_shape(cfg) == tuple(map(int, path.stem.rpartition('-')[2].split('x')))
    classes = 5 if 'flowers5' in path.stem else 1000
    assert cfg.model.head.num_classes == cfg.model.data_preprocessor.num_classes == classes
    with torch.no_grad():
        assert build(cfg).eval()(torch.rand(2, 3, 64, 96)).shape == (2, classes)


def test_averaged_weights_are_mmengines():
    """mmpretrain's hook of that name tests random weights with --tta."""
    init_default_scope('mmpretrain')
    hooks = [hook for path in LEAVES for hook in Config.fromfile(path).get('custom_hooks', [])]
    averaging = {hook['type'] for hook in hooks if hook['type'].endswith('EMAHook')}
    assert {HOOKS.get(name) for name in averaging} == {EMAHook}


@pytest.mark.parametrize('path', CASTLING, ids=lambda path: path.stem)
def test_softmax_twin_differs_in_attention_alone(path):
    ours = Config.fromfile(path)
    twin = Config.fromfile(path.with_name(path.name.removeprefix('castling-')))
    derived = softmax_twin(ours, input_shape(ours)).model
    if 'bias_grid' in twin.model.backbone:
        twin.model.backbone.bias_grid = (twin.model.backbone.bias_grid,) * 2
    assert derived.to_dict() == twin.model.to_dict()
    twin.model.backbone.pop('bias_grid', None)
    assert ours.model.backbone.pop('attn') == dict(type='CastlingAttention')
    assert twin.model.backbone.pop('attn') == dict(type='SoftmaxAttention')
    assert ours.to_dict() == twin.to_dict()


@pytest.mark.parametrize(
    'path', [p for p in CASTLING if 'nano' in p.stem], ids=lambda path: path.stem
)
def test_small_ones_train_and_predict(path):
    model = build(Config.fromfile(path))
    images = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(label) for label in (0, 4, 2, 2)]
    data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    with torch.no_grad():
        results = model.eval().test_step(dict(inputs=list(images), data_samples=samples))
    for result in results:
        assert result.pred_score.sum() == pytest.approx(1, abs=1e-5)
        assert result.pred_label.item() == result.pred_score.argmax()


@pytest.mark.parametrize(
    ('family', 'other'),
    [
        ('levit', 'castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'),
        ('vit', 'castling_seg/castling-segformer_vit-nano_1xb4-1500i_camvid-192x256.py'),
        ('mvit', 'castling_mvit/castling-picodet_mvit-nano_1xb8-40e_bccd-160x160.py'),
    ],
)
def test_a_classifier_fills_the_backbone_of_another_model(tmp_path, family, other):
    (path,) = (path for path in CASTLING if f'_{family}-nano' in path.stem)
    classifier = build(Config.fromfile(path))
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / 'a.pth')
    cfg = Config.fromfile(LEAVES[0].parents[1] / other)
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='backbone')
    cfg.model.backbone.init_cfg = init
    model = build(cfg)
    model.backbone.init_weights()
    filled, given = model.backbone.state_dict(), classifier.backbone.state_dict()
    resized = {key for key in given if key not in filled or given[key].shape != filled[key].shape}
    assert not [key for key in resized if 'pos_embed' not in key and key.split('.')[0] != 'norm']
    for key in given.keys() - resized:
        assert torch.equal(filled[key], given[key]), key
