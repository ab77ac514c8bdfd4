"""Configs of timm's ViTs: sizes and twins; each algorithm trains and predicts, made narrow."""

from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import castling_det  # noqa: F401  registers types and makes `castling_det::` configs known
from castling_det.configs import input_shape, softmax_twin, task_of
from castling_det.engine.cli import add_config_arguments, load_config
from castling_det.errors import InputError

FOLDER = Path(__file__).parents[1] / 'configs' / 'castling_timm'
LEAVES = sorted(FOLDER.glob('*.py'))
CASTLING = [path for path in LEAVES if path.stem.startswith('castling-')]
SMALL = [path for path in CASTLING if '_vit-s-' in path.stem]


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def narrow(path: Path) -> nn.Module:
    """Two heads of 16 channels, on images whose sides differ, from random weights."""
    cfg = Config.fromfile(path)
    backbone = cfg.model.backbone
    backbone.timm_args = dict(embed_dim=32, num_heads=2)
    backbone.pretrained = False
    if 'mask2former-nano' in path.stem:
        cfg.model.neck.in_channels = 32
    elif 'mask2former' in path.stem:
        cfg.model.neck.embed_dim = 32
        cfg.model.decode_head.in_channels = [32] * 4
        cfg.model.decode_head.train_cfg.num_points = 256
    elif 'picodet' in path.stem:
        cfg.model.neck[0].in_channels = 32
    elif 'gfl' in path.stem:
        cfg.model.neck.in_channels = 32
    else:
        cfg.model.decode_head.in_channels = 32
    if 'decode_head' in cfg.model:
        cfg.model.data_preprocessor.size = (56, 84)
    model = build(cfg)
    model.init_weights()
    return model


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_model_fits_its_data(path):
    """Sides are filled up to even numbers of patches; maps have the strides that the head takes."""
    cfg = Config.fromfile(path)
    height, width = size = tuple(map(int, path.stem.rpartition('-')[2].split('x')))
    assert input_shape(cfg) == size
    if task_of(cfg) == 'segmentation':
        assert height % 28 == width % 28 == 0
        assert cfg.model.data_preprocessor.size == cfg.model.test_cfg.crop_size == size
        crops = [step.crop_size for step in cfg.train_pipeline if 'crop_size' in step]
        assert crops == [size]
    everything = 80 if 'coco' in path.stem else 150
    classes = cfg.get('metainfo', {}).get('classes', everything * [''])
    model = build(cfg).eval()
    maps = [tuple(x.shape[-2:]) for x in model.extract_feat(torch.rand(1, 3, 56, 90))]
    if 'bbox_head' in cfg.model:
        assert cfg.model.data_preprocessor.pad_size_divisor == 28
        assert model.bbox_head.num_classes == len(classes)
        num_levels = 4 if 'picodet' in path.stem else 3
        assert maps == [(8, 14), (4, 7), (2, 4), (1, 2)][:num_levels]
        strides = [stride for stride, _ in model.bbox_head.prior_generator.strides]
        assert strides == [7, 14, 28, 56][:num_levels]
        epochs = cfg.train_cfg.max_epochs
        assert epochs == cfg.param_scheduler[-1].T_max
        assert cfg.model.train_cfg.get('initial_epoch', epochs / 3) == epochs / 3
    else:
        assert model.decode_head.num_classes == len(classes)
        pyramid = [(16, 28), (8, 14), (4, 7), (2, 4 if 'nano' in path.stem else 3)]
        assert maps == (pyramid if 'neck' in cfg.model else [(4, 7)])


@pytest.mark.parametrize('path', CASTLING, ids=lambda path: path.stem)
def test_softmax_twin_differs_in_attention_alone(path):
    ours = Config.fromfile(path)
    twin = Config.fromfile(path.with_name(path.name.removeprefix('castling-')))
    assert softmax_twin(ours).model.to_dict() == twin.model.to_dict()
    assert ours.model.backbone.pop('attn').type == 'FocalAttention'
    assert twin.model.backbone.pop('attn') == dict(type='SoftmaxAttention')
    assert ours.to_dict() == twin.to_dict()


@pytest.mark.parametrize('path', SMALL, ids=lambda path: path.stem)
def test_narrow_ones_train_and_predict(path, labelled_images):
    model = narrow(path)
    num_classes = getattr(model, 'decode_head', getattr(model, 'bbox_head', None)).num_classes

    def batch() -> dict:
        if hasattr(model, 'decode_head'):
            return labelled_images((56, 84), num_classes)
        return demo_mm_inputs(2, [(3, 56, 84)] * 2, num_items=[3, 1], num_classes=num_classes)

    data = model.data_preprocessor(batch(), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    with torch.no_grad():
        results = model.eval().test_step(batch())
    for result in results:
        if hasattr(model, 'decode_head'):
            assert result.pred_sem_seg.data.shape == (1, 56, 84)
        else:
            boxes = result.pred_instances.bboxes
            assert boxes.shape[0] <= 100 and (boxes[:, 2:] >= boxes[:, :2]).all()


@pytest.mark.parametrize('path', SMALL, ids=lambda path: path.stem)
def test_rates_fall_from_the_head_to_the_patches(path):
    model, cfg = narrow(path), Config.fromfile(path)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {names[group['params'][0]]: group['lr'] for group in groups}
    lr, rate = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.paramwise_cfg.layer_decay_rate
    assert rates['backbone.vit.norm.weight'] == lr
    assert rates['backbone.vit.blocks.11.mlp.fc1.weight'] == pytest.approx(lr * rate)
    assert rates['backbone.vit.patch_embed.proj.weight'] == pytest.approx(lr * rate**13)
    decays = {names[group['params'][0]]: group['weight_decay'] for group in groups}
    undecayed = [f'backbone.vit.{name}' for name in ('pos_embed', 'cls_token', 'norm.bias')]
    assert {decays[name] for name in undecayed} == {0}
    assert decays['backbone.vit.blocks.0.attn.qkv.weight'] == 0.05


@pytest.mark.usefixtures('weights_of_zeros')
def test_readme_shows_another_model_that_builds():
    command = (FOLDER / 'README.md').read_text().partition('tools/train.py ')[2]
    words = command.partition('\n\n')[0].replace('\\\n', ' ').split()
    parser = ArgumentParser()
    add_config_arguments(parser)
    args = parser.parse_args(words)
    model = build(load_config(FOLDER.parents[1] / args.config, args.cfg_options))
    assert model.data_preprocessor.std.flatten().tolist() == pytest.approx(
        [68.5, 66.63, 70.32], 1e-3
    )
    assert type(model.backbone.vit).__name__ == 'Eva'
    assert model.eval().extract_feat(torch.rand(1, 3, 28, 28))[0].shape[1] == 384


def test_missing_weights_are_an_error():
    """A name with `dinov2-pre` is not trained from random weights."""
    cfg = Config.fromfile(SMALL[0])
    init_default_scope(cfg.default_scope)
    with pytest.raises(InputError, match='dinov2_vits14_pretrain.pth does not exist'):
        MODELS.build(cfg.model.backbone).init_weights()
