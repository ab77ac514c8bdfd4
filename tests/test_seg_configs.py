"""Every segmentation config builds; nano ones train and predict; twins differ by attention."""

import argparse
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.datasets import ADE20KDataset
from mmseg.structures import SegDataSample
from PIL import Image
from torch import nn

import castling_det  # noqa: F401  registers types and makes `castling_det::` configs known
from castling_det.checkpoint import fit_weights
from castling_det.datasets import CLASSES, PALETTE
from castling_det.engine.config_checks import check_options
from castling_det.errors import InputError

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
FOLDER = CONFIGS / 'castling_mask2former'
MODELS_FOLDER = ROOT / 'configs' / '_base_' / 'models'
LEAVES = sorted(
    path for name in ('mask2former', 'seg') for path in CONFIGS.glob(f'castling_{name}/*.py')
)
NANO = [path for path in LEAVES if '-nano' in path.stem]
VIT_B = FOLDER / 'castling-mask2former_vit-b-p16-mae-pre_8xb2-160k_ade20k-640x640.py'
CAMVID = FOLDER / 'castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256.py'
COCO133 = FOLDER / 'castling-mask2former-nano_vit-nano_1xb4-1500i_coco133-256x256.py'
DEMO = CONFIGS / 'castling_seg' / 'castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py'


def build(cfg: Config) -> nn.Module:
    init_default_scope('mmseg')
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def size_in_name(path: Path) -> tuple[int, int]:
    height, width = path.stem.rpartition('-')[2].split('x')
    return int(height), int(width)


def options(*texts: str) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *texts]).cfg_options


def batch(size: tuple[int, int], num_classes: int) -> dict:
    """Two images as they leave a pipeline, with label maps of every class and of pixels without."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size))
        labels = torch.randint(0, num_classes, (1, *size), generator=generator)
        labels[:, :4] = 255
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=samples)


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_model_fits_its_data(path):
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


@pytest.mark.parametrize(
    'path', [p for p in LEAVES if p.stem.startswith('castling-')], ids=lambda path: path.stem
)
def test_softmax_twin_differs_in_attention_alone(path):
    """And in the learning rate where a study has tuned it for each."""
    ours = Config.fromfile(path)
    twin = Config.fromfile(path.with_name(path.name.removeprefix('castling-')))
    assert ours.model.backbone.pop('attn').type == 'CastlingAttention'
    assert twin.model.backbone.pop('attn') == dict(type='SoftmaxAttention')
    if ours.model.backbone.type == 'CastlingLeViT':
        assert twin.model.backbone.pop('bias_grid') == tuple(s // 16 for s in size_in_name(path))
    if path.stem == 'castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256':
        assert ours.optim_wrapper.optimizer.pop('lr') == 0.001
        assert twin.optim_wrapper.optimizer.pop('lr') == 0.002
    assert ours.to_dict() == twin.to_dict()


@pytest.mark.parametrize('path', NANO, ids=lambda path: path.stem)
@pytest.mark.parametrize('size', [(64, 64), (64, 96)], ids=str)
def test_nano_trains_and_predicts(path, size):
    """Loss and gradients reach every parameter; predictions are class numbers of every pixel."""
    cfg = Config.fromfile(path)
    cfg.model.data_preprocessor.size = size
    num_classes = cfg.model.decode_head.num_classes
    model = build(cfg)
    model.init_weights()
    data = batch(size, num_classes)
    loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert bool(missing) == ('no-mixing' in path.stem), missing
    first = next(model.backbone.parameters()).grad
    assert torch.isfinite(first).all() and first.abs().sum() > 0

    model.eval()
    with torch.no_grad():
        results = model.test_step(batch(size, num_classes))
    for result in results:
        prediction = result.pred_sem_seg.data
        assert prediction.shape == (1, *size)
        assert prediction.min() >= 0 and prediction.max() < num_classes


@pytest.mark.parametrize('name', ['castling-upernet_vit-b-p16', 'castling-mask2former_vit-b-p16'])
def test_large_models_train_and_test_when_made_narrow(name):
    """The graphs without a nano leaf, Feature2Pyramid and UPerNet, at two heads of 32 channels."""
    cfg = Config.fromfile(MODELS_FOLDER / f'{name}.py')
    cfg.model.backbone.arch = dict(embed_dims=64, num_heads=2, depths=12)
    cfg.model.neck.embed_dim = 64
    cfg.model.decode_head.in_channels = [64] * 4
    cfg.model.data_preprocessor.size = (64, 96)
    if 'mask2former' in name:
        cfg.model.decode_head.train_cfg.num_points = 256
    if 'auxiliary_head' in cfg.model:
        cfg.model.auxiliary_head.in_channels = 64
    model = build(cfg)
    model.init_weights()
    data = batch((64, 96), 150)
    loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    with torch.no_grad():
        (result, *_) = model.eval().test_step(batch((40, 70), 150))
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
    assert metainfo.classes == ('ground', *CLASSES)
    assert tuple(map(tuple, metainfo.palette[1:])) == PALETTE


def test_readme_shows_options_that_build():
    """Each command with `--cfg-options`: the options are accepted, and maps fit the head."""
    commands = (FOLDER / 'README.md').read_text().replace('\\\n', ' ').splitlines()
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
    text = (CONFIGS / 'castling_seg' / 'README.md').read_text()
    (block,) = (b for b in re.findall(r'(?:^    .*\n|^\n)+', text, re.MULTILINE) if '_base_ =' in b)
    leaf = tmp_path / 'my_config.py'
    leaf.write_text(textwrap.dedent(block))
    cfg = Config.fromfile(leaf)
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
