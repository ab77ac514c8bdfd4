"""ViTs of other libraries with the seam in the place of their softmax attention."""

import pickle
from collections.abc import Callable
from copy import deepcopy

import pytest
import timm
import torch
import torchvision
import transformers
from mmpretrain.models import VisionTransformer
from timm.models.crossvit import CrossAttention
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det import castle, castlify
from castling_det.castlifying import castlified_modules
from castling_det.errors import InputError
from castling_det.models.attention import CastlingAttention

SOFTMAX = dict(type='SoftmaxAttention')
CASTLING = dict(type='CastlingAttention')

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


SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
OF_IMAGES = dict(SIZES, image_size=32, patch_size=8)


def transformers_model(name: str) -> Callable[[Tensor], Tensor]:
    config, kind = TRANSFORMERS[name]
    return randomised(kind(config(**OF_IMAGES)))


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


def assert_default_has_no_keys_of_its_own(model: nn.Module) -> None:
    """It is linear from the start and finite at any size."""
    keys = list(model.state_dict())
    castlify(model)
    assert list(model.state_dict()) == keys
    assert features(model, 24, 40).isfinite().all()


def assert_trains_and_castles(model: nn.Module) -> None:
    keys = set(model.state_dict())
    castlify(model, CASTLING)
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
    assert_default_has_no_keys_of_its_own(timm_model(name))
    assert_trains_and_castles(timm_model(name))


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_transformers(name):
    assert_same_with_softmax(transformers_model(name), [(32, 32), (24, 40)])
    assert_default_has_no_keys_of_its_own(transformers_model(name))
    assert_trains_and_castles(transformers_model(name))


class OwnModel(transformers.PreTrainedModel):
    """A user's, who says nothing about implementations of attention."""

    config_class = transformers.Dinov2Config

    def __init__(self, config: transformers.Dinov2Config) -> None:
        super().__init__(config)
        self.backbone = transformers.Dinov2Model(config)

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        return (self.backbone(pixels).last_hidden_state,)


def depth_anything(config: transformers.Dinov2Config) -> nn.Module:
    sizes = dict(reassemble_hidden_size=32, neck_hidden_sizes=[8, 8], reassemble_factors=[2, 1])
    sizes |= dict(patch_size=8, fusion_hidden_size=8, head_hidden_size=8)
    sizes |= dict(depth_estimation_type='metric')  # which is not cut off at zero
    config = transformers.DepthAnythingConfig(backbone_config=config, **sizes)
    return transformers.DepthAnythingForDepthEstimation(config)


@pytest.mark.parametrize('build', [OwnModel, depth_anything])
def test_transformers_model_in_another(build):
    """The outer one cannot be asked for the implementation "sdpa"."""
    maps = dict(out_features=['stage1', 'stage2'], reshape_hidden_states=False)
    config = transformers.Dinov2Config(**OF_IMAGES, **maps, attn_implementation='eager')
    model = randomised(build(config))
    with torch.no_grad():
        before = model(image(24, 40))[0]
        assert len(before) == 2 and before.std() > 0.01
        assert len(castlify(model, SOFTMAX).replaced) == 2
        torch.testing.assert_close(model(image(24, 40))[0], before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', ['CLIP', 'Siglip'])
def test_text_keeps_softmax(name):
    """Its attention is of the same class; it is read before an image is seen."""
    config, kind = (getattr(transformers, f'{name}{word}') for word in ('Config', 'Model'))
    text = dict(SIZES, vocab_size=50, max_position_embeddings=40)
    model = randomised(kind(config(text_config=text, vision_config=OF_IMAGES)))
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        before = model.get_text_features(tokens)
        report = castlify(model, CASTLING)
        assert torch.equal(model.get_text_features(tokens), before)
        assert model.get_image_features(image(32, 32)).isfinite().all()
    assert all(each.startswith('vision_model.encoder.layers.') for each in report.replaced)
    text = [why for each, why in report.left.items() if each.startswith('text_model.')]
    assert [why.split('Attention ')[1] for why in text] == ['reads text'] * 2
    with pytest.raises(InputError, match=f'{name}TextModel cannot be .*Attention reads text'):
        castlify(getattr(transformers, f'{name}TextModel')(model.config.text_config))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64], ids=str)
def test_convolution_has_the_type_of_the_weights(dtype):
    model = timm_model('vit_tiny_patch16_224').to(dtype)
    castlify(model, CASTLING)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(image(24, 40).to(dtype)).isfinite().all()


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


def levit(img_size: tuple[int, int], name: str = 'levit_128s') -> nn.Module:
    sizes = dict(embed_dim=(16, 24), key_dim=8, num_heads=(2, 3), depth=(2, 2), num_classes=3)
    model = timm.create_model(name, img_size=img_size, **sizes)
    torch.manual_seed(0)
    for key, value in randomised(model).state_dict().items():
        if key.endswith(('running_var', 'bn.weight')):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0, value[0].numel() ** -0.5)
    return model


def mvit(**config: object) -> nn.Module:
    sizes = dict(depths=(1, 2), embed_dim=16, num_heads=2, stride_kv_adaptive=(2, 2))
    model = randomised(MultiScaleVit(MultiScaleVitCfg(**sizes, **config), (64, 64), num_classes=3))
    for name, parameter in model.named_parameters():
        if 'rel_pos' in name:
            parameter.data *= 100  # else they hardly matter
    return model


def without_biases(model: nn.Module) -> list[str]:
    """Their names; they are zero then."""
    names = [n for n, _ in model.named_parameters() if 'attention_biases' in n or 'rel_pos' in n]
    for name in names:
        model.get_parameter(name).data.zero_()
    return names


@pytest.mark.parametrize('name', ['levit_128s', 'levit_conv_128s'])
@pytest.mark.parametrize('size', [(64, 64), (96, 160)], ids=str)
def test_levit(name, size):
    """Softmax attention takes the biases; without them it is LeViT with biases of zero."""
    model = levit(size, name)
    expected, keys = features(model, *size), list(model.state_dict())
    assert len(castlify(model, SOFTMAX).replaced) == 5
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(features(model, *size), expected, rtol=1e-5, atol=1e-5)

    model = levit(size, name)
    dropped = castlify(model, SOFTMAX, drop_bias=True).dropped
    assert set(dropped) == {key for key in keys if 'attention_biases' in key}
    without = levit(size, name)
    without_biases(without)
    got, expected = features(model, *size), features(without, *size)
    assert (expected - features(levit(size, name), *size)).abs().min() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('config', [dict(), dict(use_cls_token=True), dict(mode='avg')], ids=str)
def test_mvit(config):
    """q, k and v are pooled to grids that differ from each other."""
    model = mvit(**config)
    before, keys = features(model, 64, 64), list(model.state_dict())
    assert len(castlify(model, SOFTMAX).replaced) == 3
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(features(model, 64, 64), before, rtol=1e-5, atol=1e-5)

    model = mvit(**config)
    names = without_biases(model)
    expected = [features(model, *size) for size in ((64, 64), (32, 64))]
    assert (expected[0] - before).abs().max() > 1e-3
    model = mvit(**config)
    report = castlify(model, SOFTMAX, drop_bias=True)
    assert len(report.replaced) == 3 and list(report.dropped) == names
    assert str(report).endswith(f'dropped 6: {", ".join(names)}')
    for size, without in zip(((64, 64), (32, 64)), expected, strict=True):
        torch.testing.assert_close(features(model, *size), without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('build', [lambda: levit((64, 96)), mvit])
def test_castled_where_queries_and_keys_have_other_grids(build):
    """All but the biases learn; aux goes and nothing else changes in eval."""
    model = build()
    with pytest.raises(InputError, match='FocalAttention takes no relative .*drop_bias=True'):
        castlify(model)
    assert not any(name.endswith('.castling') for name, _ in model.named_modules())
    dropped = castlify(model, CASTLING, drop_bias=True).dropped
    model.train()
    model(image(64, 96)).square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} == set(dropped)
    before, keys = features(model.eval(), 64, 96), list(model.state_dict())
    castle(model)
    assert torch.equal(features(model, 64, 96), before) and list(model.state_dict()) == keys
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):  # as torch.save does
        assert torch.equal(features(copy, 64, 96), before)


@pytest.mark.parametrize('build', [lambda: levit((64, 96)), mvit])
def test_linear_where_queries_and_keys_have_other_grids(build):
    """The default: all but the biases learn."""
    model = build()
    dropped = castlify(model, drop_bias=True).dropped
    model.train()
    model(image(64, 96)).square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} == set(dropped)


def test_convolution_leaves_out_what_is_not_on_the_grid():
    model = timm_model('vit_small_patch14_reg4_dinov2')
    castlify(model, CASTLING)
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
    for blocks in ([2], [0, -3]):
        with pytest.raises(InputError, match='blocks are among the 2 blocks, -1 the last'):
            castlify(timm_model('vit_tiny_patch16_224'), blocks=blocks)


def test_what_is_left_is_reported_with_the_reason():
    model = timm_model('vit_base_patch16_siglip_224')
    model.cross = CrossAttention(32)
    left = castlify(model).left
    assert left == {
        'attn_pool': 'timm.layers.attention_pool.AttentionPoolLatent pools the tokens',
        'cross': 'timm.models.crossvit.CrossAttention attends to other tokens than its own',
    }


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


def test_nothing_is_replaced_after_an_interrupt():
    """As by the stop button of a notebook."""
    model = timm_model('vit_tiny_patch16_224')
    castlify(model)
    expected = features(model, 32, 32)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with (
        model.blocks[0].attn.proj.register_forward_hook(interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        features(model, 32, 32)
    q = torch.randn(1, 2, 9, 4)
    mask = torch.zeros(9, 9)  # which the seam refuses
    assert F.scaled_dot_product_attention(q, q, q, mask).shape == (1, 2, 9, 4)
    assert torch.equal(features(model, 32, 32), expected)


def test_it_is_compiled_whole():
    model = timm_model('vit_tiny_patch16_224')
    castlify(model)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    for size in ((32, 32), (24, 40)):
        torch.testing.assert_close(features(compiled, *size), features(model, *size))


@pytest.mark.parametrize(
    'build', [lambda: timm_model('vit_tiny_patch16_224'), lambda: levit((64, 64))]
)
def test_data_parallel_is_refused(build):
    model = build()
    castlify(model, drop_bias=True)
    module = next(iter(castlified_modules(model).values()))
    with pytest.raises(InputError, match='nn.DataParallel: .* torchrun'):
        module._replicate_for_data_parallel()(torch.randn(1, 17, 32))


def test_it_is_exported_without_softmax():
    model = timm_model('vit_tiny_patch16_224')
    castlify(model, CASTLING)
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
            'swin_transformer.WindowAttention attends within windows',
        ),
        (
            'beit_base_patch16_224',
            dict(embed_dim=32, depth=1, num_heads=2),
            'beit.Attention is not known',
        ),
        (
            'crossvit_9_240',
            dict(embed_dim=(16, 32), num_heads=(2, 2)),
            'CrossVit has 2 patch embeddings',
        ),
        (
            'vit_relpos_small_patch16_224',
            dict(embed_dim=32, depth=1, num_heads=2),
            'vision_transformer_relpos.RelPosAttention is not known',
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
    with pytest.raises(InputError, match='blocks.0.attn runs before the model has seen an image'):
        model.blocks[0].attn(torch.randn(1, 17, 32))
    features(model, 32, 32)
    for tokens in (9, 16, 18):
        reason = f'sees {tokens} tokens of a grid of 4x4: .* patch dropout'
        with pytest.raises(InputError, match=reason):
            model.blocks[0].attn(torch.randn(1, tokens, 32))


def test_checkpointed_blocks_of_another_size_are_refused():
    """They run again in backward, when the grid is that of the last image."""
    model = timm_model('vit_tiny_patch16_224').train()
    castlify(model)
    model.set_grad_checkpointing()
    loss = model(image(32, 32)).sum()
    loss.backward()
    loss = model(image(32, 32)).sum() + model(image(24, 40)).sum()
    with pytest.raises(InputError, match='sees 17 tokens of a grid of 3x5: .* checkpointing'):
        loss.backward()


def test_attention_weights_are_refused():
    model = transformers_model('ViT')
    castlify(model)
    model.set_attn_implementation('eager')
    with pytest.raises(InputError, match='ask for no attention weights'):
        features(model, 32, 32)
