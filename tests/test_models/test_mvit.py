"""MViTv2 against mmpretrain's own, and what castling changes in it."""

import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.models import MViT
from torch import Tensor, nn

from castling_det import castle
from castling_det.analysis.complexity import count_complexity
from castling_det.configs import softmax_twin
from castling_det.errors import InputError
from castling_det.models import CastlingAttention, CastlingMViT, FocalAttention, SoftmaxAttention

SOFTMAX = dict(type='SoftmaxAttention')
TINY = dict(embed_dims=16, num_heads=2, depths=(1, 1, 2, 1), drop_path_rate=0.0)


def randomised(model: nn.Module) -> nn.Module:
    """Scales near 1; tables of positions large, so that they matter."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale, mean = (0.3, 1.0) if 'norm' in name and 'weight' in name else (0.2, 0.0)
        scale = 1.0 if 'rel_pos' in name else scale
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(mean + scale * noise)
    model.eval()
    return model


def mvit(attn: dict = SOFTMAX, **config: object) -> nn.Module:
    return randomised(CastlingMViT(**dict(dict(arch=TINY, attn=attn, pos_grid=16), **config)))


def image(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))


def mmpretrains(stage: int) -> nn.Module:
    """With one map: where it gives several, it goes on with the normed map of each."""
    arch = dict(embed_dims=16, num_heads=2, num_layers=5, downscale_indices=[1, 2, 4])
    return randomised(MViT(arch, img_size=64, out_scales=(stage,)))


@pytest.mark.parametrize('size', [(64, 64), (96, 160), (50, 75)], ids=str)
def test_softmax_twin_is_mmpretrains_mvit(size):
    """Its tables of positions are resized too, where the input is another."""
    for stage in range(4):
        theirs = mmpretrains(stage)
        ours = mvit(out_indices=(stage,))
        weights = ours.convert({f'backbone.{k}': v for k, v in theirs.state_dict().items()})
        missing, left = ours.load_state_dict(weights, strict=False)
        assert not missing and all(key.startswith('stages.') for key in left)
        with torch.no_grad():
            (got,), (expected,) = ours(image(*size)), theirs(image(*size))
        assert got.shape == expected.shape and expected.std() > 0.5
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    without = mvit(out_indices=(3,))
    for name, parameter in without.named_parameters():
        if 'rel_pos' in name:
            parameter.data.zero_()
    full = mvit(out_indices=(3,))
    with torch.no_grad():
        assert (without(image(*size))[0] - full(image(*size))[0]).abs().max() > 0.1


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize(
    ('arch', 'params', 'macs'),
    [('tiny', 24.17, 4.70), ('small', 34.87, 7.00), ('base', 51.47, 10.16)],
)
def test_sizes_are_those_of_mmpretrain(arch, params, macs):
    """With its classifier of 1,000 classes and one final norm."""
    found = count_complexity(
        CastlingMViT(arch, SOFTMAX, out_indices=(3,)), torch.zeros(1, 3, 224, 224)
    )
    assert found.params / 1e6 + 0.769 == pytest.approx(params, rel=0.01)
    assert found.macs / 1e9 == pytest.approx(macs, rel=0.01)


def test_checkpoints_of_the_authors_and_of_timm(tmp_path):
    ours = mvit()
    config = timm.models.mvitv2.MultiScaleVitCfg(
        depths=TINY['depths'], embed_dim=(16, 32, 64, 128), num_heads=(2, 4, 8, 16)
    )
    theirs = randomised(timm.models.mvitv2.MultiScaleVit(config, (64, 64), num_classes=5))
    weights = theirs.state_dict()
    stages = [
        (stage, block) for stage, depth in enumerate(TINY['depths']) for block in range(depth)
    ]
    authors = {}
    for key, value in weights.items():
        for number, (stage, block) in enumerate(stages):
            key = key.replace(f'stages.{stage}.blocks.{block}.', f'blocks.{number}.')
        authors[key.replace('shortcut_proj_attn', 'proj').replace('head.fc', 'head.projection')] = (
            value
        )
    assert any(key.startswith('blocks.4.proj') for key in authors)
    with torch.no_grad():
        tokens = theirs.forward_features(image(64, 64))
    for name, keys in (('timm', weights), ('authors', dict(model_state=authors))):
        torch.save(keys, tmp_path / f'{name}.pth')
        checkpoint = dict(type='Pretrained', checkpoint=str(tmp_path / f'{name}.pth'))
        for out_indices in ((3,), (0, 1, 2, 3)):  # of a classifier, of a detector
            ours = mvit(out_indices=out_indices, init_cfg=checkpoint)
            ours.init_weights()
            with torch.no_grad():
                last = ours(image(64, 64))[-1]
            torch.testing.assert_close(last.flatten(2).mT, tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('attn', ['CastlingAttention', 'FocalAttention'])
def test_linear_form_learns_at_any_size(attn):
    """All parameters; the tables of positions are with softmax alone."""
    model = mvit(dict(type=attn)).train()
    maps = model(image(70, 100))
    assert [tuple(x.shape) for x in maps] == [
        (2, 16, 18, 25),
        (2, 32, 9, 13),
        (2, 64, 5, 7),
        (2, 128, 3, 4),
    ]
    sum(x.square().sum() for x in maps).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    tables = {name.split('.')[1] for name, _ in model.named_parameters() if 'rel_pos' in name}
    assert tables == {'3'}


def test_castled_form_gives_the_same_maps():
    model = mvit(dict(type='CastlingAttention'))
    with torch.no_grad():
        before = model(image(64, 96))
        castle(model)
        after = model(image(64, 96))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize('softmax_stages', [(), (3,), (0, 2)])
def test_softmax_stages(softmax_stages):
    model = mvit(dict(type='CastlingAttention'), softmax_stages=softmax_stages)
    for index, stage in enumerate(model.stages):
        kinds = {
            type(m) for m in stage.modules() if isinstance(m, CastlingAttention | SoftmaxAttention)
        }
        assert kinds == {SoftmaxAttention if index in softmax_stages else CastlingAttention}


def test_checkpointing_gives_the_same_maps_and_gradients():
    plain, model = (
        mvit(dict(type='FocalAttention')),
        mvit(dict(type='FocalAttention'), with_cp=True),
    )
    assert model.load_state_dict(plain.state_dict())
    outputs = []
    for each in (plain, model):
        each.train()
        x = image(64, 64).requires_grad_()
        sum(y.square().sum() for y in each(x)).backward()
        outputs.append((x.grad, each.patch_embed.proj.weight.grad))
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages(frozen_stages):
    model = mvit(frozen_stages=frozen_stages).train()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = ['patch_embed.'] if frozen_stages >= 0 else []
    for index in range(frozen_stages):
        frozen += [f'stages.{index}.', f'norms.{index}.']
    assert learning == {n for n, _ in model.named_parameters() if not n.startswith(tuple(frozen))}
    assert model.stages[3].training == (frozen_stages < 4)


def test_layer_depth():
    model = mvit()
    depths = [
        model.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name in ('patch_embed.proj.weight', 'stages.2.blocks.1.mlp.fc1.weight', 'norms.0.bias')
    ]
    assert depths == [(0, 7), (4, 7), (6, 7)]
    assert model.get_layer_depth('decode_head.conv.weight', 'backbone.') == (6, 7)


def test_config_and_its_softmax_twin():
    backbone = dict(type='CastlingMViT', arch='nano', attn=dict(type='FocalAttention'))
    cfg = Config(dict(model=dict(backbone=backbone)))
    twin = softmax_twin(cfg).model.backbone
    assert twin.attn == SOFTMAX and cfg.model.backbone.attn.type == 'FocalAttention'
    model = CastlingMViT(**{key: value for key, value in backbone.items() if key != 'type'})
    assert sum(isinstance(module, FocalAttention) for module in model.modules()) == 4


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(arch='huge'), "no arch 'huge', only"),
        (dict(out_indices=(1, 4)), r'among 0, 1, 2, 3, .* but got \(1, 4\)'),
        (dict(out_indices=()), 'at least one'),
        (dict(softmax_stages=(5,)), r'but got .* and \(5,\)'),
        (dict(out_indices=(1,), frozen_stages=3), 'from -1 to 2, not 3'),
    ],
)
def test_what_does_not_exist(config, message):
    with pytest.raises(InputError, match=message):
        CastlingMViT(**config)
