"""Every config parses and builds; nano ones train and predict; twins differ by attention."""

import argparse
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.datasets import ADE20KDataset
from model_zoo import COUNTS, stale_files
from PIL import Image
from torch import nn

import castling_det  # noqa: F401  registers types and makes `castling_det::` configs known
from castling_det.analysis.complexity import count_config
from castling_det.checkpoint import fit_weights
from castling_det.configs import input_shape
from castling_det.datasets import CLASSES, PALETTE
from castling_det.engine.config_checks import check_options
from castling_det.errors import InputError

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
PICODET, MASK2FORMER = CONFIGS / 'castling_picodet', CONFIGS / 'castling_mask2former'
DETECTORS = sorted([*PICODET.glob('*.py'), *CONFIGS.glob('peers/*csp*.py')])
SEGMENTORS = sorted([*MASK2FORMER.glob('*.py'), *CONFIGS.glob('castling_seg/*.py')])
CASTLING = [p for p in DETECTORS + SEGMENTORS if p.stem.startswith('castling-')]
DEMO = PICODET / 'castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'
SEG_DEMO = CONFIGS / 'castling_seg/castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py'
VIT_B = MASK2FORMER / 'castling-mask2former_vit-b-p16-mae-pre_8xb2-160k_ade20k-640x640.py'
CAMVID = MASK2FORMER / 'castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256.py'
COCO133 = MASK2FORMER / 'castling-mask2former-nano_vit-nano_1xb4-1500i_coco133-256x256.py'
# Where a study has tuned the learning rate of each, it is another for the softmax twin.
TUNED = {
    'castling-picodet_levit-128s_1xb8-40e_bccd-160x160': (0.016, 0.008),
    CAMVID.stem: (0.001, 0.002),
}


def stem(path: Path) -> str:
    return path.stem


def nano(paths: list[Path]) -> list[Path]:
    return [path for path in paths if 'vit-nano' in path.stem]


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def size_in_name(path: Path) -> tuple[int, int]:
    height, width = path.stem.rpartition('-')[2].split('x')
    return int(height), int(width)


def options(*texts: str) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *texts]).cfg_options


def config_in(page: Path, folder: Path) -> Path:
    """The config that a page shows, as a file."""
    blocks = re.findall(r'(?:^    .*\n|^\n)+', page.read_text(), re.MULTILINE)
    (block,) = (block for block in blocks if '_base_ =' in block)
    leaf = folder / 'my_config.py'
    leaf.write_text(textwrap.dedent(block))
    return leaf


def train_step(model: nn.Module, data: dict) -> list[str]:
    """A loss that is finite, and the parameters that it gives no gradient."""
    model.init_weights()
    loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    return [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize('path', DETECTORS, ids=stem)
def test_detector_fits_its_data(path):
    cfg = Config.fromfile(path)
    model = build(cfg)
    classes = cfg.get('metainfo', {}).get('classes')
    assert model.bbox_head.num_classes == (len(classes) if classes else 80)
    assert input_shape(cfg) == size_in_name(path)
    maps = model.eval().extract_feat(torch.rand(1, 3, 96, 128))
    strides = [stride for stride, _ in model.bbox_head.prior_generator.strides]
    assert strides == [8, 16, 32, 64][: len(strides)]
    assert [tuple(x.shape[-2:]) for x in maps] == [(-(-96 // s), -(-128 // s)) for s in strides]


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize('path', SEGMENTORS, ids=stem)
def test_segmentor_fits_its_data(path):
    cfg = Config.fromfile(path)
    model = build(cfg)
    classes = cfg.get('metainfo', ADE20KDataset.METAINFO)['classes']
    head = model.decode_head
    assert model.out_channels == head.num_classes == len(classes)
    if 'mask2former' in path.stem:
        assert len(head.class_weight) == len(classes) + 1
    assert tuple(cfg.model.data_preprocessor.size) == size_in_name(path)
    assert tuple(cfg.model.test_cfg.crop_size) == size_in_name(path)
    crops = [step.crop_size for step in cfg.train_pipeline if 'crop_size' in step]
    assert all(tuple(crop) == size_in_name(path) for crop in crops)
    maps = model.eval().extract_feat(torch.rand(1, 3, 64, 96))
    finest = 8 if 'levit' in path.stem else 4
    expected = [(64 // s, 96 // s) for s in (finest, 2 * finest, 4 * finest)]
    assert [tuple(x.shape[-2:]) for x in maps[:3]] == expected


@pytest.mark.parametrize('path', CASTLING, ids=stem)
def test_softmax_twin_differs_in_attention_alone(path):
    """And in the learning rate where a study has tuned it for each."""
    if 'coco32' in path.stem:
        pytest.skip('proves the wiring, compares nothing')
    ours = Config.fromfile(path)
    twin = Config.fromfile(path.with_name(path.name.removeprefix('castling-')))
    assert ours.model.backbone.pop('attn').type == 'CastlingAttention'
    assert twin.model.backbone.pop('attn') == dict(type='SoftmaxAttention')
    if ours.model.backbone.type == 'CastlingLeViT':
        grid = twin.model.backbone.pop('bias_grid')
        grid = (grid, grid) if isinstance(grid, int) else tuple(grid)
        assert grid == tuple(side / 16 for side in size_in_name(path))
    if path.stem in TUNED:
        assert (
            tuple(cfg.optim_wrapper.optimizer.pop('lr') for cfg in (ours, twin)) == TUNED[path.stem]
        )
    assert ours.to_dict() == twin.to_dict()


@pytest.mark.parametrize('path', nano(DETECTORS), ids=stem)
@pytest.mark.parametrize('size', [(160, 160), (96, 224)], ids=str)
def test_nano_detector_trains_and_predicts(path, size):
    model = build(Config.fromfile(path))
    data = demo_mm_inputs(2, [(3, *size)] * 2, num_items=[3, 1], num_classes=6)
    missing = train_step(model, data)
    assert bool(missing) == ('no-mixing' in path.stem), missing  # no use for queries and keys

    with torch.no_grad():
        model.eval()
        results = model.forward(**model.data_preprocessor(data, False), mode='predict')
    for result in results:
        boxes, scores = result.pred_instances.bboxes, result.pred_instances.scores
        assert boxes.shape == (len(scores), 4) and len(scores) <= 100
        assert ((scores > 0.025) & (scores < 1)).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


@pytest.mark.parametrize('path', nano(SEGMENTORS), ids=stem)
@pytest.mark.parametrize('size', [(64, 64), (64, 96)], ids=str)
def test_nano_segmentor_trains_and_predicts(path, size, labelled_images):
    """Loss and gradients reach every parameter; predictions are class numbers of every pixel."""
    cfg = Config.fromfile(path)
    cfg.model.data_preprocessor.size = size
    num_classes = cfg.model.decode_head.num_classes
    model = build(cfg)
    missing = train_step(model, labelled_images(size, num_classes))
    assert bool(missing) == ('no-mixing' in path.stem), missing
    first = next(model.backbone.parameters()).grad
    assert torch.isfinite(first).all() and first.abs().sum() > 0

    model.eval()
    with torch.no_grad():
        results = model.test_step(labelled_images(size, num_classes))
    for result in results:
        prediction = result.pred_sem_seg.data
        assert prediction.shape == (1, *size)
        assert prediction.min() >= 0 and prediction.max() < num_classes


@pytest.mark.parametrize('name', ['castling-upernet_vit-b-p16', 'castling-mask2former_vit-b-p16'])
def test_large_models_train_and_test_when_made_narrow(name, labelled_images):
    """The graphs without a nano leaf, Feature2Pyramid and UPerNet, at two heads of 32 channels."""
    cfg = Config.fromfile(CONFIGS / '_base_' / 'models' / f'{name}.py')
    cfg.model.backbone.arch = dict(embed_dims=64, num_heads=2, depths=12)
    cfg.model.neck.embed_dim = 64
    cfg.model.decode_head.in_channels = [64] * 4
    cfg.model.data_preprocessor.size = (64, 96)
    if 'mask2former' in name:
        cfg.model.decode_head.train_cfg.num_points = 256
    if 'auxiliary_head' in cfg.model:
        cfg.model.auxiliary_head.in_channels = 64
    model = build(cfg)
    assert not train_step(model, labelled_images((64, 96), 150))
    with torch.no_grad():
        (result, *_) = model.eval().test_step(labelled_images((40, 70), 150))
    assert result.pred_sem_seg.data.shape == (1, 40, 70)
    assert result.seg_logits.data.shape == (150, 40, 70)


def test_rates_fall_from_the_head_to_the_patches():
    """With MAE weights lr is 0.65 times smaller from layer to layer, from random ones it is one."""
    cfg = Config.fromfile(VIT_B)
    cfg.model.backbone.arch = dict(embed_dims=32, num_heads=1, depths=12)
    cfg.model.neck.embed_dim = 32
    cfg.model.decode_head.in_channels = [32] * 4
    model = build(cfg)
    names = {parameter: name for name, parameter in model.named_parameters()}

    def settings(optim_wrapper: dict) -> dict:
        groups = build_optim_wrapper(model, optim_wrapper).optimizer.param_groups
        return {names[group['params'][0]]: group for group in groups}

    groups = settings(cfg.optim_wrapper)
    rates = {name: group['lr'] for name, group in groups.items()}
    assert rates['decode_head.query_feat.weight'] == rates['neck.upsample_2x.0.weight'] == 1e-4
    assert rates['backbone.blocks.11.mlp.up.weight'] == pytest.approx(0.65e-4)
    assert rates['backbone.embed.proj.weight'] == pytest.approx(1e-4 * 0.65**13)
    undecayed = {name for name, group in groups.items() if group['weight_decay'] == 0}
    assert {'decode_head.query_embed.weight', 'decode_head.level_embed.weight'} <= undecayed
    assert 'decode_head.pixel_decoder.level_encoding.weight' in undecayed
    assert 'neck.upsample_2x.0.weight' not in undecayed

    scratch = Config.fromfile(str(VIT_B).replace('-mae-pre', ''))
    assert {group['lr'] for group in settings(scratch.optim_wrapper).values()} == {1e-4}
    assert scratch.model.backbone.get('init_cfg') is None


def test_missing_weights_are_an_error():
    """A name with `mae-pre` is not trained from random weights."""
    cfg = Config.fromfile(VIT_B)
    cfg.model.backbone.arch = dict(embed_dims=32, num_heads=1, depths=12)
    with pytest.raises(InputError, match='mae_pretrain_vit_base.pth does not exist'):
        MODELS.build(cfg.model.backbone).init_weights()


def test_a_checkpoint_of_another_number_of_classes():
    cfg = Config.fromfile(CAMVID)
    trained = build(cfg).state_dict()
    cfg.model.decode_head.num_classes = 19
    cfg.model.decode_head.loss_cls.class_weight = [1.0] * 19 + [0.1]
    misfit = r'decode_head\.cls_embed\.weight has \(12, 64\) .*\(20, 64\).*its num_classes too'
    with pytest.raises(InputError, match=misfit):
        fit_weights(build(cfg), trained, 'epoch.pth', strict=True)
    weights, report = fit_weights(build(cfg), trained, 'epoch.pth', strict=False)
    assert (
        trained.keys() - weights.keys()
        == {
            'decode_head.cls_embed.weight',
            'decode_head.cls_embed.bias',
            'decode_head.loss_cls.class_weight',
        }
        & trained.keys()
    )
    assert 'of heads are new (decode_head.cls_embed' in report


def test_the_demo_names_the_classes_of_the_scenes():
    metainfo = Config.fromfile(DEMO).metainfo
    assert (metainfo.classes, tuple(metainfo.palette)) == (CLASSES, PALETTE)


def test_the_demo_of_segmentors_names_the_classes_of_the_scenes():
    metainfo = Config.fromfile(SEG_DEMO).metainfo
    assert metainfo.classes == ('ground', *CLASSES)
    assert tuple(map(tuple, metainfo.palette[1:])) == PALETTE


def test_a_size_without_a_file_of_its_own():
    cfg = Config.fromfile(PICODET / 'castling-picodet_levit-128s_8xb32-300e_coco-416x416.py')
    changes = ['model.backbone.arch=256', 'model.neck.in_channels=[128,256,384,512]']
    cfg.merge_from_dict(options(*changes))
    maps = build(cfg).eval().extract_feat(torch.rand(1, 3, 64, 64))
    assert len(maps) == 4


def test_readme_shows_options_that_build():
    """Each command with `--cfg-options`: the options are accepted, and maps fit the head."""
    commands = (MASK2FORMER / 'README.md').read_text().replace('\\\n', ' ').splitlines()
    commands = [line.split() for line in commands if '--cfg-options' in line]
    assert len(commands) == 4
    for words in commands:
        cfg = Config.fromfile(ROOT / words[2])
        changes = options(*words[words.index('--cfg-options') + 1 :])
        check_options(cfg, changes)
        cfg.merge_from_dict(changes)
        maps = build(cfg).eval().extract_feat(torch.rand(1, 3, 32, 32))
        assert [x.shape[1] for x in maps] == cfg.model.decode_head.in_channels


def test_readme_shows_a_config_for_other_data(tmp_path):
    cfg = Config.fromfile(config_in(CONFIGS / 'castling_seg' / 'README.md', tmp_path))
    model = build(cfg)
    assert model.decode_head.num_classes == model.auxiliary_head.num_classes == 2
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate < 1  # for weights that exist
    assert cfg.model.backbone.init_cfg.checkpoint.endswith('mae_pretrain_vit_base.pth')
    for split in ('train', 'val', 'test'):
        dataset = dict(cfg[f'{split}_dataloader'].dataset, lazy_init=True)
        built = DATASETS.build(dataset)
        assert built.metainfo['classes'] == ('ground', 'roof')
        assert built.data_prefix['img_path'].startswith('/data/roofs/images/')
        assert not built.reduce_zero_label


def test_inherits_from_the_installed_package(tmp_path):
    leaf = tmp_path / 'mine.py'
    leaf.write_text(
        f"_base_ = 'castling_det::castling_picodet/{DEMO.name}'\n"
        'model = dict(bbox_head=dict(num_classes=2))\n'
    )
    assert build(Config.fromfile(leaf)).bbox_head.num_classes == 2


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


@pytest.mark.data('seg/ade20k_tiny', 'seg/coco133')
@pytest.mark.parametrize(
    ('path', 'folder', 'images'), [(VIT_B, 'ade20k_tiny', 2), (COCO133, 'coco133', 57)]
)
def test_truth_scored_as_prediction_is_perfect(data_root, path, folder, images):
    """Holds classes, `reduce_zero_label` and the ignored pixels of data set and metric together."""
    cfg = Config.fromfile(path)
    init_default_scope('mmseg')
    cfg.val_dataloader.dataset.data_root = str(data_root / 'seg' / folder)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    assert len(dataset) == images
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    for index in range(min(4, len(dataset))):
        sample = dataset[index]['data_samples']
        labels = sample.gt_sem_seg.data
        in_file = np.asarray(Image.open(sample.seg_map_path)).astype(int)
        assert (labels[0].numpy() == np.where(in_file == 0, 255, in_file - 1)).all()
        sample.pred_sem_seg = PixelData(data=labels.where(labels != 255, 0))
        metric.process({}, [sample.to_dict()])
    assert metric.compute_metrics(metric.results)['mIoU'] == 100
