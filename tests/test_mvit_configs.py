"""Configs of MViTv2: sizes and twins; each algorithm trains and predicts with the nano backbone."""

from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import castling_det  # noqa: F401  registers types and makes `castling_det::` configs known
from castling_det.configs import input_shape, softmax_twin, task_of

FOLDER = Path(__file__).parents[1] / 'configs' / 'castling_mvit'
LEAVES = sorted(FOLDER.glob('*.py'))
CASTLING = [path for path in LEAVES if path.stem.startswith('castling-')]
SIZE = (64, 96)


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def small(path: Path) -> Config:
    """With the nano backbone from random weights, and small heads."""
    cfg = Config.fromfile(path)
    model = cfg.model
    model.backbone.update(arch='nano', init_cfg=None)
    widths = [32, 64, 128, 256][-len(model.backbone.get('out_indices', range(4))) :]
    (model.neck or model.decode_head).in_channels = widths
    if 'decode_head' in model:
        model.data_preprocessor.size = SIZE
        model.decode_head.train_cfg.num_points = 256
    if 'roi_head' in model:
        model.roi_head.bbox_head.fc_out_channels = 16
        model.test_cfg.rpn.max_per_img = 20
    return cfg


def num_classes_of(model: nn.Module) -> int:
    heads = (getattr(model, name, None) for name in ('decode_head', 'bbox_head', 'roi_head'))
    head = next(head for head in heads if head is not None)
    return getattr(head, 'bbox_head', head).num_classes


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_model_fits_its_data(path):
    cfg = Config.fromfile(path)
    size = tuple(map(int, path.stem.rpartition('-')[2].split('x')))
    assert input_shape(cfg) == size
    if task_of(cfg) == 'segmentation':
        assert cfg.model.data_preprocessor.size == cfg.model.test_cfg.crop_size == size
        assert [s.crop_size for s in cfg.train_pipeline if 'crop_size' in s] == [size]
    model = build(cfg).eval()
    classes = {'bccd': 3, 'coco': 80, 'camvid': 11, 'ade20k': 150}
    assert num_classes_of(model) == classes[path.stem.split('_')[-1].split('-')[0]]
    if 'nano' in path.stem:
        assert cfg.model.backbone.pos_grid == max(size) // 4
    maps = [tuple(x.shape[-2:]) for x in model.extract_feat(torch.rand(1, 3, 64, 90))]
    assert set(maps) >= {(8, 12), (4, 6), (2, 3)}


@pytest.mark.parametrize('path', CASTLING, ids=lambda path: path.stem)
def test_softmax_twin_differs_in_attention_alone(path):
    ours = Config.fromfile(path)
    twin = Config.fromfile(path.with_name(path.name.removeprefix('castling-')))
    assert softmax_twin(ours).model.to_dict() == twin.model.to_dict()
    assert ours.model.backbone.pop('attn') == dict(type='CastlingAttention')
    assert twin.model.backbone.pop('attn') == dict(type='SoftmaxAttention')
    assert ours.to_dict() == twin.to_dict()


@pytest.mark.parametrize('path', CASTLING, ids=lambda path: path.stem)
def test_small_ones_train_and_predict(path, labelled_images):
    cfg = small(path)
    model = build(cfg)
    num_classes = num_classes_of(model)

    def batch() -> dict:
        if task_of(cfg) == 'segmentation':
            return labelled_images(SIZE, num_classes)
        shapes, masks = [(3, *SIZE)] * 2, 'roi_head' in cfg.model
        return demo_mm_inputs(2, shapes, num_items=[3, 1], num_classes=num_classes, with_mask=masks)

    data = model.data_preprocessor(batch(), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    with torch.no_grad():
        results = model.eval().test_step(batch())
    for result in results:
        if task_of(cfg) == 'segmentation':
            assert result.pred_sem_seg.data.shape == (1, *SIZE)
        else:
            boxes = result.pred_instances.bboxes
            assert len(boxes) <= 100 and (boxes[:, 2:] >= boxes[:, :2]).all()
