"""Every detector's config parses and builds; one nano of each attention trains and predicts."""

import argparse
import json
import re
import textwrap
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from model_zoo import COUNTS, stale_files

import castling_det  # noqa: F401  registers types and makes `castling_det::` configs known
from castling_det.analysis.complexity import count_config
from castling_det.configs import input_shape
from castling_det.datasets import CLASSES, PALETTE

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
FOLDER = CONFIGS / 'castling_picodet'
LEAVES = sorted([*FOLDER.glob('*.py'), *CONFIGS.glob('peers/*.py')])
NANO = [path for path in LEAVES if 'levit-nano' in path.stem]


def build(path: Path) -> tuple[Config, torch.nn.Module]:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return cfg, MODELS.build(cfg.model)


def size_in_name(path: Path) -> tuple[int, int]:
    height, width = path.stem.rpartition('-')[2].split('x')
    return int(height), int(width)


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_model_fits_its_data(path):
    cfg, model = build(path)
    classes = cfg.get('metainfo', {}).get('classes')
    assert model.bbox_head.num_classes == (len(classes) if classes else 80)
    assert input_shape(cfg) == size_in_name(path)
    maps = model.eval().extract_feat(torch.rand(1, 3, 96, 128))
    strides = [stride for stride, _ in model.bbox_head.prior_generator.strides]
    assert strides == [8, 16, 32, 64][: len(strides)]
    assert [tuple(x.shape[-2:]) for x in maps] == [(-(-96 // s), -(-128 // s)) for s in strides]


@pytest.mark.parametrize(
    'castling', [p for p in LEAVES if p.stem.startswith('castling-')], ids=lambda path: path.stem
)
def test_softmax_twin_differs_in_attention_alone(castling):
    if 'coco32' in castling.stem:
        pytest.skip('proves the wiring, compares nothing')
    ours = Config.fromfile(castling)
    twin = Config.fromfile(castling.with_name(castling.name.removeprefix('castling-')))
    assert ours.model.backbone.pop('attn').type == 'CastlingAttention'
    assert twin.model.backbone.pop('attn') == dict(type='SoftmaxAttention')
    grid = twin.model.backbone.pop('bias_grid')
    grid = (grid, grid) if isinstance(grid, int) else tuple(grid)
    assert grid == tuple(side / 16 for side in size_in_name(castling))
    if 'bccd-160x160' in castling.stem:  # each has the rate that its study found
        ours.optim_wrapper.optimizer.lr = twin.optim_wrapper.optimizer.lr
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


def test_the_demo_names_the_classes_of_the_scenes():
    metainfo = Config.fromfile(NANO[0]).metainfo
    assert (metainfo.classes, tuple(metainfo.palette)) == (CLASSES, PALETTE)


def test_a_size_without_a_file_of_its_own():
    cfg = Config.fromfile(FOLDER / 'castling-picodet_levit-128s_8xb32-300e_coco-416x416.py')
    options = ['model.backbone.arch=256', 'model.neck.in_channels=[128,256,384,512]']
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    cfg.merge_from_dict(parser.parse_args(['--cfg-options', *options]).cfg_options)
    init_default_scope(cfg.default_scope)
    maps = MODELS.build(cfg.model).eval().extract_feat(torch.rand(1, 3, 64, 64))
    assert len(maps) == 4


def test_readme_shows_a_config_that_builds(tmp_path):
    blocks = re.findall(r'(?:^    .*\n|^\n)+', (ROOT / 'README.md').read_text(), re.MULTILINE)
    (block,) = (block for block in blocks if "_base_ = 'castling_det::" in block)
    leaf = tmp_path / 'my_config.py'
    leaf.write_text(textwrap.dedent(block).replace("'cat', 'dog'", "'a', 'b', 'c', 'd', 'e'"))
    cfg = Config.fromfile(leaf)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.metainfo.to_dict() == {'classes': ('a', 'b', 'c', 'd', 'e')}
        assert loader.dataset.data_root == '/data/pets/'
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == '/data/pets/val.json'
    assert build(leaf)[1].bbox_head.num_classes == 2


def test_tables_are_fresh():
    """By the stored counts; models whose configs have changed since are counted again."""
    names = [str(path.relative_to(ROOT)) for path in stale_files(CONFIGS, recount=False)]
    assert not names, f'stale tables in {names}: run `python tools/studies/update_tables.py`'


@pytest.mark.parametrize(
    'stem',
    [
        'castling-picodet_levit-nano_1xb16-8e_shapes-64x512',
        'castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512',
        'mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256',
    ],
)
def test_stored_counts_are_those_of_the_models(stem):
    (path,) = CONFIGS.glob(f'*/{stem}.py')
    counted = count_config(Config.fromfile(path), size_in_name(path))
    _, params, macs = json.loads((CONFIGS / COUNTS).read_text())[stem]
    assert (params, macs) == (f'{counted.params / 1e6:.2f}', f'{counted.macs / 1e9:.3f}')


def test_inherits_from_the_installed_package(tmp_path):
    leaf = tmp_path / 'mine.py'
    leaf.write_text(
        f"_base_ = 'castling_det::castling_picodet/{NANO[0].name}'\n"
        'model = dict(bbox_head=dict(num_classes=2))\n'
    )
    _, model = build(leaf)
    assert model.bbox_head.num_classes == 2
