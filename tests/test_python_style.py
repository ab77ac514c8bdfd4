"""mmengine's Python-style configs, with `read_base` and classes as types, in every tool."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.fileio import load

from castling_det.configs import build_model
from castling_det.export import onnx_file
from castling_det.export.build import graphs
from castling_det.export.metadata import describe
from castling_det.models import CastlingLeViT
from castling_det.models.attention import CastlingAttention

ROOT = Path(__file__).parents[1]
DEMO = 'castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'
LEAF = """
from mmcv.transforms import LoadImageFromFile
from mmengine.config import read_base

from castling_det.models import CastlingLeViT
from castling_det.models.attention import CastlingAttention

with read_base():
    from .flat import *

model.update(backbone=dict(type=CastlingLeViT, arch='nano', attn=dict(type=CastlingAttention)))
train_dataloader['dataset']['pipeline'][0] = dict(type=LoadImageFromFile)
test_dataloader['dataset']['pipeline'][0] = dict(type=LoadImageFromFile)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory, call) -> Path:
    """Folder with `leaf.py`, its two scenes, and `work/epoch_1.pth`, an epoch of training."""
    root = tmp_path_factory.mktemp('python_style')
    call('make_shapes', root / 'shapes', '--num-train', 2, '--num-val', 2)
    cfg = Config.fromfile(ROOT / 'configs' / DEMO)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(batch_size=1, num_workers=0)
        cfg[f'{split}_dataloader'].dataset.data_root = f'{root}/shapes/'
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = f'{root}/shapes/annotations/val.json'
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.logger.interval = cfg.custom_hooks[0].interval = 1
    cfg.dump(root / 'flat.py')
    (root / 'leaf.py').write_text(LEAF)
    call('train', root / 'leaf.py', '--work-dir', root / 'work')
    return root


@pytest.fixture
def leaf(folder: Path) -> list[Path]:
    """Config and checkpoint."""
    return [folder / 'leaf.py', folder / 'work' / 'epoch_1.pth']


def test_train_and_test(call, leaf, tmp_path):
    assert Config.fromfile(leaf[0]).model.backbone.type is CastlingLeViT
    work = ['--work-dir', tmp_path / 'work']
    assert 'no fault found' in call('train', leaf[0], *work, '--dry-run')
    output = call('test', *leaf, *work, '--out', tmp_path / 'found.pkl', '--tta')
    assert 'coco/bbox_mAP' in output and len(load(tmp_path / 'found.pkl')) == 2


def test_castle(call, leaf, tmp_path):
    """What it writes is a config of texts, whose model has nothing but the inference form."""
    printed = call('castle', *leaf, '--out', tmp_path)
    assert 'inference form: ' in printed and 'the ramp was 0.5556' in printed  # 0.5 / 0.9
    (config,) = tmp_path.glob('leaf-castled-*.py')
    attentions = [
        module
        for module in build_model(Config.fromfile(config)).modules()
        if isinstance(module, CastlingAttention)
    ]
    assert attentions and not any(module.aux for module in attentions)


def test_export(call, leaf, tmp_path, monkeypatch):
    """Up to the graph; what torch makes of it knows no config."""

    def export(trained, out, decode, precision, shape, calibrate):
        described.update(describe(trained, decode or 'boxes', precision, shape))
        graphs(trained.model, True, half=False)
        out.touch()

    described = {}
    monkeypatch.setattr(onnx_file, 'export_onnx', export)
    assert f'File: {tmp_path}/a.onnx' in call('export_onnx', *leaf, '--out', tmp_path / 'a.onnx')
    assert described['input_size'] == [64, 512] and described['config'] == 'leaf.py'


def test_image_demo(call, folder, leaf, tmp_path):
    """With the config that the checkpoint holds, whose types are texts."""
    words = ['--checkpoint', leaf[1], '--out-dir', tmp_path]
    assert 'drawn: 2 of 2' in call('image_demo', folder / 'shapes' / 'images' / 'val', *words)


def test_looking_at_data(call, leaf, tmp_path):
    with pytest.raises(SystemExit) as left:
        call('check_dataset', leaf[0])
    assert '0 errors' in left.value.printed
    words = ['--out-dir', tmp_path, '--num', 1]
    assert 'drawn: 1;' in call('browse_dataset', leaf[0], *words)


def test_counting_and_timing(call, leaf):
    forms = call('get_complexity', leaf[0], '--format', 'json')
    assert '"inference form"' in forms and '"shape": [\n      64,\n      512\n' in forms
    words = ['--shape', 64, 64, '--rounds', 1, '--warm-up', 0, '--parts', 'backbone']
    printed = call('benchmark_latency', leaf[0], *words)
    assert printed.count('64x64') == 2


def test_plots(call, folder, tmp_path):
    assert 'masks.png' in call('plot_masks', folder / 'work', '--out', tmp_path)
