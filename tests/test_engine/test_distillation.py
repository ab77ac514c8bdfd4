"""tools/distill.py on a few images, from trained weights to the file that a training takes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from castling_det.configs import build_model
from castling_det.distilling import AttentionDistillation
from castling_det.engine.distillation import _Images

FOLDER = Path(__file__).parents[2] / 'configs' / 'castling_timm'
LEAF = FOLDER / 'castling-fcn_vit-s-p14-dinov2-pre_1xb4-400i_camvid-252x336.py'
TINY = dict(embed_dim=32, num_heads=2, depth=2)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """The leaf of CamVid with a narrow backbone and random weights, on four images of noise."""
    monkeypatch.setenv('CASTLING_DET_DATA', str(tmp_path))
    generator = np.random.default_rng(0)
    for folder in ('images/training', 'annotations/training'):
        (tmp_path / 'seg/camvid' / folder).mkdir(parents=True)
    for number in range(4):
        image = generator.integers(0, 256, (150, 180, 3), dtype=np.uint8)
        labels = generator.integers(0, 11, (150, 180), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'seg/camvid/images/training/{number}.jpg'), image)
        cv2.imwrite(str(tmp_path / f'seg/camvid/annotations/training/{number}.png'), labels)
    path = tmp_path / 'config.py'
    path.write_text(
        f"""
_base_ = {str(LEAF)!r}
model = dict(
    data_preprocessor=dict(size=(140, 168)),
    backbone=dict(
        attn=dict(cells=2), timm_args=dict({TINY}), pretrained={str(tmp_path / 'vit.pth')!r}
    ),
    decode_head=dict(in_channels=32),
)
train_dataloader = dict(
    num_workers=0,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomCrop', crop_size=(140, 168)),
            dict(type='PackSegInputs'),
        ]
    ),
)
"""
    )
    cfg = Config.fromfile(path)
    cfg.model.backbone.pretrained = False
    torch.manual_seed(0)
    softmax = build_model(cfg).backbone.vit.state_dict()
    trained = {key: value for key, value in softmax.items() if '.castling.' not in key}
    for key, value in trained.items():
        if '.attn.qkv' in key:
            value.mul_(20)  # so that softmax is not a mean
    torch.save(trained, tmp_path / 'vit.pth')
    return path


def backbone(config: Path, pretrained: Path, **attn: object) -> torch.nn.Module:
    cfg = Config.fromfile(config)
    cfg.model.backbone.pretrained, cfg.model.backbone.attn = str(pretrained), attn
    model = build_model(cfg).backbone
    model.init_weights()
    return model.eval()


def test_each_pass_over_the_images_has_another_order():
    dataset = [dict(inputs=torch.full((3, 4, 4), value)) for value in range(8)]
    sampler = dict(type='DefaultSampler', shuffle=True)
    loader = Runner.build_dataloader(dict(dataset=dataset, batch_size=2, sampler=sampler), seed=0)
    images = _Images(loader, lambda batch, training: dict(inputs=torch.stack(batch['inputs'])))
    orders = [torch.cat([batch[:, 0, 0, 0] for batch in images]).tolist() for _ in range(3)]
    assert len(set(map(tuple, orders))) == 3
    assert all(sorted(order) == list(range(8)) for order in orders)


def test_the_file_is_closer_to_softmax_and_loads_whole(config, tmp_path, call):
    out = tmp_path / 'new' / 'distilled.pth'
    printed = call('distill', config, '--iterations', 60, '--lr', 3e-3, '--out', out)
    assert f'Weights: {out}\n' in printed and 'model.backbone.pretrained=' in printed
    assert [file.name for file in out.parent.iterdir()] == ['distilled.pth']
    file = torch.load(out)
    assert file['meta']['distillation']['iterations'] == 60
    original = backbone(config, tmp_path / 'vit.pth', type='SoftmaxAttention')
    images = torch.randn(2, 3, 140, 168, generator=torch.Generator().manual_seed(0))
    errors = []
    for weights in (tmp_path / 'vit.pth', out):
        model = backbone(config, weights, type='FocalAttention', cells=2)
        errors.append(AttentionDistillation(model, original)(images).item())
    loaded = model.vit.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in file['state_dict'].items())
    assert errors[1] < 0.9 * errors[0]


def test_a_backbone_without_trained_weights_or_all_frozen_is_refused(config, tmp_path, refusal):
    out = tmp_path / 'distilled.pth'
    options = ['--cfg-options', 'model.backbone.pretrained=False']
    message = refusal('distill', config, '--out', out, *options)
    assert 'a CastlingTimm with trained weights: give model.backbone.pretrained' in message
    options = ['--cfg-options', 'model.backbone.frozen_stages=2']
    message = refusal('distill', config, '--out', out, *options)
    assert 'modules of CastlingTimm are frozen: lower frozen_stages' in message
    assert not out.exists()
