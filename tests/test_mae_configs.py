"""Configs of MAE: sizes, twins, rates; the softmax twin is mmpretrain's MAE; what tools do."""

import re
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from study import Run, Study
from torch import Tensor, nn
from torch.nn import functional as F

import castling_det  # noqa: F401  registers types and makes `castling_det::` configs known
from castling_det.configs import input_shape, softmax_twin, task_of
from castling_det.engine.cli import load_config
from castling_det.engine.runner_checks import schedule_faults
from castling_det.models.pretrained import vit_state_dict
from castling_det.visualization.reconstructions import reconstruct

ROOT = Path(__file__).parents[1]
LEAVES = sorted((ROOT / 'configs' / 'castling_mae').glob('*.py'))
CASTLING = [path for path in LEAVES if path.stem.startswith('castling-')]
VIT_B, NANO = CASTLING
SMALL = [path for path in LEAVES if 'nano' in path.stem]


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def images(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, side, side), generator=generator, dtype=torch.uint8)


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    torch.manual_seed(1)
    data = model.data_preprocessor(dict(inputs=batch, data_samples=None), True)
    return model(**data, mode='loss')['loss']


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_model_fits_its_data(path):
    cfg = Config.fromfile(path)
    assert task_of(cfg) == 'pretraining'
    side, _ = input_shape(cfg)
    assert path.stem.endswith(f'-{side}x{side}')
    assert cfg.model.neck.num_patches == (side // 16) ** 2 == cfg.model.backbone.pos_grid**2
    with torch.device('meta'):
        model = build(cfg)
    params = sum(parameter.numel() for parameter in model.parameters())
    if path.stem.startswith('mae_vit-b'):
        assert params / 1e6 == pytest.approx(111.91, abs=0.005)  # as mmpretrain's table has it


@pytest.mark.parametrize('path', CASTLING, ids=lambda path: path.stem)
def test_softmax_twin_differs_in_attention_alone(path):
    ours = Config.fromfile(path)
    twin = Config.fromfile(path.with_name(path.name.removeprefix('castling-')))
    assert softmax_twin(ours).model.to_dict() == twin.model.to_dict()
    assert ours.model.backbone.pop('attn') == dict(type='CastlingAttention')
    assert twin.model.backbone.pop('attn') == dict(type='SoftmaxAttention')
    assert ours.to_dict() == twin.to_dict()


def test_small_one_trains():
    model = build(Config.fromfile(NANO))
    model.init_weights()
    loss = loss_of(model, images(192))
    loss.backward()
    assert torch.isfinite(loss)
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == {'backbone.embed.pos_embed', 'neck.decoder_pos_embed'}


def test_softmax_twin_is_mae_of_mmpretrain():
    """Loss and gradients of the decoder, for the same weights and noise."""
    cfg = softmax_twin(Config.fromfile(NANO))
    twin = build(cfg)
    arch = dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512)
    cfg.model.backbone = dict(type='MAEViT', arch=arch, img_size=192)
    theirs = build(cfg)
    theirs.init_weights()
    twin.backbone.load_state_dict(vit_state_dict(theirs.backbone.state_dict()), strict=True)
    twin.neck.load_state_dict(theirs.neck.state_dict())
    losses, gradients = [], []
    for model in (twin, theirs):
        loss = loss_of(model, images(192))
        loss.backward()
        losses.append(loss)
        gradients.append(model.neck.decoder_embed.weight.grad)
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def test_weight_decay_is_of_matrices_alone():
    cfg = Config.fromfile(NANO)
    model = build(cfg)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    undecayed = {names[group['params'][0]] for group in groups if not group['weight_decay']}
    expected = {n for n, p in model.named_parameters() if p.requires_grad and p.ndim == 1}
    assert undecayed == expected | {'backbone.embed.cls_token', 'neck.mask_token'}
    assert Config.fromfile(VIT_B).optim_wrapper.optimizer.lr == pytest.approx(2.4e-3)


def test_other_lengths_on_the_command_line():
    """Those that the README shows."""
    page = (ROOT / 'configs' / 'castling_mae' / 'README.md').read_text().replace('\\\n', ' ')
    commands = [line for line in page.splitlines() if 'param_scheduler' in line]
    assert len(commands) == 2
    for command, epochs in zip(commands, (400, 800), strict=True):
        words = command.partition('--cfg-options')[2].split()
        changes = {key: int(value) for key, value in (word.split('=') for word in words)}
        cfg = load_config(VIT_B, changes)
        assert cfg.train_cfg.max_epochs == epochs
        assert not list(schedule_faults(cfg, epochs * 312, 312))


@pytest.mark.data('cls/flowers5', 'seg/camvid')
def test_images_of_two_data_sets(data_root):
    cfg = Config.fromfile(NANO)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 675 + 367
    batch = default_collate([dataset[0], dataset[1041]])
    assert batch['inputs'].shape == (2, 3, 192, 192)
    assert [Path(sample.img_path).parent.name for sample in batch['data_samples']] == [
        'daisy',
        'training',
    ]


def test_study_starts_from_the_files_of_both_pretrainings(tmp_path, monkeypatch):
    """Each arm from its own, with all of the encoder."""
    monkeypatch.chdir(ROOT)
    study = Study('docs/studies/castling-mae/plan.py')
    for leaf, arm in zip(SMALL, ('castled from MAE', 'softmax twin from MAE'), strict=True):
        cfg = study.config(Run(arm, 0.001, 0))
        file = cfg.model.backbone.init_cfg.checkpoint
        epochs = Config.fromfile(leaf).train_cfg.max_epochs
        assert file == f'work_dirs/{leaf.stem}/epoch_{epochs}.pth'
        pretrained = build(Config.fromfile(leaf))
        cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'mae.pth')
        torch.save(dict(state_dict=pretrained.state_dict()), tmp_path / 'mae.pth')
        segmentor = build(cfg)
        segmentor.backbone.init_weights()
        weights = pretrained.backbone.state_dict()
        resized = F.interpolate(weights['embed.pos_embed'], (12, 16), mode='bicubic')
        weights['embed.pos_embed'] = resized
        for key, value in segmentor.backbone.state_dict().items():
            torch.testing.assert_close(value, weights.pop(key))
        assert not weights


@pytest.fixture
def leaf(tmp_path) -> Path:
    """The config of the page on MAE, on a folder of five images."""
    for number in range(5):
        picture = Image.effect_noise((240, 200), 20 + 20 * number).convert('RGB')
        picture.save(tmp_path / f'{number}.jpg')
    page = (ROOT / 'docs' / 'mae.md').read_text()
    blocks = re.findall(r'(?:^    .*\n|^\n(?=    ))+', page, re.MULTILINE)
    (block,) = (block for block in blocks if '_base_ =' in block)
    text = textwrap.dedent(block).replace('/data/pictures', str(tmp_path))
    (tmp_path / 'leaf.py').write_text(f'{text}train_dataloader.update(batch_size=2, num_workers=0)')
    return tmp_path / 'leaf.py'


def test_tools(leaf, call, refusal):
    """What a pretraining has, and in one sentence what it has not."""
    folder = leaf.parent
    report = call('train', leaf, '--work-dir', folder / 'work', '--dry-run')
    assert 'no fault found' in report and 'training    600 iterations' in report
    torch.save(build(Config.fromfile(leaf)).state_dict(), folder / 'mae.pth')
    words = [leaf, folder / 'mae.pth', folder / '0.jpg', folder / '1.jpg']
    assert call('plot_reconstructions', *words, '--out', folder / 'out' / 'a.png')
    assert Image.open(folder / 'out' / 'a.png').size == (1320, 690)
    printed = call('castle', leaf, folder / 'mae.pth', '--out', folder / 'castled')
    assert 'MACs at 192x192' in printed
    for tool, more in (
        ('browse_dataset', ['--split', 'train', '--out-dir', folder]),
        ('export_onnx', [folder / 'mae.pth', '--out', folder / 'a.onnx']),
    ):
        assert 'there are no ' in refusal(tool, leaf, *more)
    classifier = next(ROOT.glob('configs/castling_cls/cls_vit-nano_*'))
    said = refusal('plot_reconstructions', classifier, *words[1:], '--out', folder / 'b.png')
    assert "model.type is 'ImageClassifier', and only MAE paints" in said


def test_reconstructions_keep_what_is_visible():
    """And say what is given away: the brightness of each hidden patch, which is not predicted."""
    model = build(Config.fromfile(NANO)).eval()
    batch = images(192)
    pictures = reconstruct(model, batch)
    image, visible, painted, mean = pictures.values()
    assert torch.equal(image, batch[:, [2, 1, 0]])
    hidden = (visible != image).unfold(2, 16, 16).unfold(3, 16, 16).any(1).any(-1).any(-1)
    assert hidden.sum((1, 2)).tolist() == [108] * 4
    shown = ~hidden.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None].expand_as(image)
    for picture in (visible, painted, mean):
        assert torch.equal(picture[shown], image[shown]) and not torch.equal(picture, image)
    again = reconstruct(model, batch)
    assert torch.equal(again['reconstruction'], painted)
    model.head.norm_pix = False
    assert list(reconstruct(model, batch)) == list(pictures)[:3]
