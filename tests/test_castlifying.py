"""ViTs of other libraries with the seam in the place of their softmax attention."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import timm
import torch
import torchvision
import transformers
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from castling_det import castle, castlify
from castling_det.errors import InputError
from castling_det.models.attention import CastlingAttention

SOFTMAX = dict(type='SoftmaxAttention')

TIMM = {  # a model and what makes it another kind
    'vit_tiny_patch16_224': 'class token',
    'vit_base_patch16_siglip_224': 'no class token, attention pooling',
    'vit_base_patch16_clip_224': 'norm before the blocks',
    'vit_small_patch14_dinov2': 'LayerScale',
    'vit_small_patch14_reg4_dinov2': 'registers',
    'vit_so150m2_patch16_reg1_gap_256': 'registers, no class token',
    'vit_wee_patch16_reg1_gap_256': 'q and k normed',
    'vit_base_patch16_rope_224': 'rotary positions',
    'deit3_small_patch16_224': 'class token without a position',
    'deit_tiny_distilled_patch16_224': 'distillation token',
    'eva02_tiny_patch14_224': 'rotary positions, SwiGLU',
    'eva_giant_patch14_224': 'q and v with a bias apart',
    'vit_small_patch16_dinov3': 'registers, rotary positions',
    'vit_pe_core_tiny_patch16_384': 'rotary positions, norm before the blocks',
}
TRANSFORMERS = {
    'ViT': (transformers.ViTConfig, transformers.ViTModel),
    'DeiT': (transformers.DeiTConfig, transformers.DeiTModel),
    'Dinov2': (transformers.Dinov2Config, transformers.Dinov2Model),
    'Dinov2WithRegisters': (
        transformers.Dinov2WithRegistersConfig,
        transformers.Dinov2WithRegistersModel,
    ),
    'DINOv3': (transformers.DINOv3ViTConfig, transformers.DINOv3ViTModel),
    'CLIP': (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
    'Siglip': (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
}


def randomised(model: nn.Module) -> nn.Module:
    """In eval mode, with parameters of which none is what it starts as."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.eval()  # mmpretrain's returns None
    return model


def timm_model(name: str) -> nn.Module:
    size = dict(img_size=(32, 32), patch_size=8, dynamic_img_size=True)
    return randomised(timm.create_model(name, embed_dim=32, depth=2, num_heads=2, **size))


def transformers_model(name: str) -> Callable[[Tensor], Tensor]:
    config, kind = TRANSFORMERS[name]
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    return randomised(kind(config(image_size=32, patch_size=8, **sizes)))


def image(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(model: nn.Module, height: int, width: int) -> Tensor:
    if not isinstance(model, transformers.PreTrainedModel):
        return model(image(height, width))
    options = {}
    if 'DINOv3' not in type(model).__name__ and (height, width) != (32, 32):
        options = dict(interpolate_pos_encoding=True)
    if 'Dinov2' in type(model).__name__:
        options = {}  # it always does
    return model(image(height, width), **options).last_hidden_state


def assert_same_with_softmax(model: nn.Module, sizes: list[tuple[int, int]]) -> None:
    expected = [features(model, *size) for size in sizes]
    keys = list(model.state_dict())
    report = castlify(model, SOFTMAX)
    assert len(report.replaced) == 2
    assert list(model.state_dict()) == keys
    for size, before in zip(sizes, expected, strict=True):
        torch.testing.assert_close(features(model, *size), before, rtol=1e-5, atol=1e-5)


def assert_trains_and_castles(model: nn.Module) -> None:
    keys = set(model.state_dict())
    castlify(model)
    new = set(model.state_dict()) - keys
    assert len(new) == 2 and all(key.endswith('.castling.attn.conv.weight') for key in new)
    attentions = [m for m in model.modules() if isinstance(m, CastlingAttention)]
    before = features(model, 24, 40)
    castle(model)
    assert all(attention.aux is None for attention in attentions)
    assert torch.equal(features(model, 24, 40), before)


@pytest.mark.parametrize('name', TIMM)
def test_timm(name):
    assert_same_with_softmax(timm_model(name), [(32, 32), (24, 40)])
    assert_trains_and_castles(timm_model(name))


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_transformers(name):
    assert_same_with_softmax(transformers_model(name), [(32, 32), (24, 40)])
    assert_trains_and_castles(transformers_model(name))


def test_torchvision():
    model = randomised(torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=3))
    assert_same_with_softmax(model, [(32, 32)])


def test_mmpretrain():
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    model = randomised(VisionTransformer(arch, img_size=32, patch_size=8, out_type='featmap'))
    with torch.no_grad():
        (before,) = model(image(24, 40))
    assert len(castlify(model, SOFTMAX).replaced) == 2
    with torch.no_grad():
        (after,) = model(image(24, 40))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_convolution_leaves_out_what_is_not_on_the_grid():
    model = timm_model('vit_small_patch14_reg4_dinov2')
    castlify(model)
    seen = []
    for module in model.modules():
        if isinstance(module, CastlingAttention):
            module.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    features(model, 24, 40)
    assert seen == [(2, 2, 15, 16)] * 2


def test_blocks_are_chosen_and_reported():
    model = timm_model('vit_tiny_patch16_224')
    report = castlify(model, blocks=[0])
    assert report.replaced == ('blocks.0.attn',)
    assert report.left == {'blocks.1.attn': 'not among the blocks asked for'}
    assert str(report).splitlines()[0] == 'replaced 1: blocks.0.attn'


def test_aux_runs_in_training_and_every_parameter_learns():
    model = timm_model('vit_tiny_patch16_224').train()
    castlify(model, dict(type='CastlingAttention', aux=dict(threshold=0.0)))
    in_training = model(image(32, 32))
    in_training.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not torch.allclose(in_training, model.eval()(image(32, 32)))


def test_a_copy_has_its_own_grid():
    model = timm_model('vit_tiny_patch16_224')
    castlify(model)
    copy = deepcopy(model)
    features(model, 32, 32)
    assert torch.equal(features(copy, 24, 40), features(model, 24, 40))


def test_it_is_exported_without_softmax():
    model = timm_model('vit_tiny_patch16_224')
    castlify(model)
    castle(model)
    program = torch.export.export(model, (image(32, 32),), strict=False)
    called = [str(node.target) for node in program.graph.nodes]
    assert not [name for name in called if 'softmax' in name or 'scaled_dot' in name]
    torch.testing.assert_close(program.module()(image(32, 32)), model(image(32, 32)))


@pytest.mark.parametrize(
    ('name', 'sizes', 'reason'),
    [
        (
            'swin_tiny_patch4_window7_224',
            dict(embed_dim=32, depths=(1, 1), num_heads=(2, 2)),
            'swin_transformer.WindowAttention is not known',
        ),
        (
            'beit_base_patch16_224',
            dict(embed_dim=32, depth=1, num_heads=2),
            'beit.Attention is not known',
        ),
        ('resnet10t', {}, 'no attention module'),
    ],
)
def test_what_is_not_known_is_refused_by_name(name, sizes, reason):
    with pytest.raises(InputError, match=reason):
        castlify(timm.create_model(name, **sizes))


def test_masks_dropped_patches_and_a_second_time_are_refused():
    model = timm_model('vit_tiny_patch16_224')
    castlify(model)
    with pytest.raises(InputError, match='castlified before'):
        castlify(model)
    with pytest.raises(InputError, match='blocks.0.attn is called with a mask'):
        model.blocks[0].attn(torch.randn(1, 17, 32), attn_mask=torch.zeros(17, 17))
    features(model, 32, 32)
    with pytest.raises(InputError, match='sees 9 tokens of a grid of 4x4: .* patch dropout'):
        model.blocks[0].attn(torch.randn(1, 9, 32))


def test_attention_weights_are_refused():
    model = transformers_model('ViT')
    castlify(model)
    model.set_attn_implementation('eager')
    with pytest.raises(InputError, match='ask for no attention weights'):
        features(model, 32, 32)
