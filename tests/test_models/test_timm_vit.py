"""timm's ViTs as backbones, against timm itself; weights of other libraries, against their models.

Parameters are all random, so that none is where it makes no difference.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmpretrain.models import VisionTransformer
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det import castle, castlify, load_vit
from castling_det.analysis.complexity import count_complexity
from castling_det.configs import softmax_twin
from castling_det.errors import InputError
from castling_det.models import CastlingTimm, CastlingViT, FocalAttention

SOFTMAX, CASTLING = dict(type='SoftmaxAttention'), dict(type='CastlingAttention')
DINO = 'vit_small_patch14_dinov2'
NAMES = [
    'vit_tiny_patch16_224',
    DINO,
    'vit_small_patch14_reg4_dinov2',
    'vit_giant_patch14_dinov2',  # a gated MLP
    'vit_base_patch16_siglip_224',  # no class token, pools by attention
    'vit_base_patch16_clip_224',  # a norm before the blocks
    'vit_wee_patch16_reg1_gap_256',  # norms after its pooling, q and k normed
    'deit3_small_patch16_224',
    'deit_tiny_distilled_patch16_224',
    'eva02_tiny_patch14_224',
    'vit_small_patch16_dinov3',
    'vit_small_patch16_dinov3_qkvb',
]


def tiny(depth: int = 2, side: int | tuple[int, int] = 32) -> dict:
    return dict(embed_dim=32, depth=depth, num_heads=2, img_size=side, patch_size=8)


def randomised(model: nn.Module) -> nn.Module:
    """In eval mode, every parameter random, or random near 1 where it scales."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def backbone(name: str = DINO, attn: dict = SOFTMAX, args: dict | None = None, **config):
    args = tiny() if args is None else args
    return randomised(CastlingTimm(name, attn=attn, timm_args=args, **config))


def image(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randn(batch, 3, height, width, generator=generator)


@pytest.fixture
def messages(monkeypatch):
    """What goes to the log."""
    seen = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'info', lambda message, *_: seen.append(str(message)))
    return seen


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('size', [(32, 32), (24, 40), (21, 50)], ids=str)
def test_softmax_twin_is_timms_model(name, size):
    """The last block's map, normalised, and the first's; partial patches are filled with zeros."""
    twin = backbone(name, out_indices=(1, 0))
    theirs = timm.create_model(name, num_classes=0, dynamic_img_size=True, **tiny()).eval()
    weights = twin.vit.state_dict()
    if isinstance(theirs.norm, nn.Identity):
        weights |= {f'fc_{key}': weights[key] for key in ('norm.weight', 'norm.bias')}
    theirs.load_state_dict(weights, strict=False)
    x = image(*size)
    whole = F.pad(x, (0, -size[1] % 8, 0, -size[0] % 8))
    with torch.no_grad():
        last, first = twin(x)
        tokens, (expected, _) = theirs.forward_intermediates(whole, output_fmt='NCHW')
        if isinstance(theirs.norm, nn.Identity):
            tokens = theirs.fc_norm(tokens)
    grid = tokens[:, theirs.num_prefix_tokens :].transpose(1, 2).unflatten(-1, first.shape[-2:])
    assert first.shape[-2:] == (-(-size[0] // 8), -(-size[1] // 8))
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, grid, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_castling_form_learns_and_castles(name):
    """Every parameter gets a gradient; eval outputs and keys stay when aux goes."""
    model = backbone(name, CASTLING).train()
    model(image(24, 40))[0].square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    keys, x = list(model.state_dict()), image(24, 40)
    with torch.no_grad():
        (before,) = model.eval()(x)
        castle(model)
        assert torch.equal(model(x)[0], before)
    assert list(model.state_dict()) == keys
    assert sum(key.endswith('.castling.attn.conv.weight') for key in keys) == 2


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
def test_counts_are_those_of_our_own_vit(attn):
    ours, timms = CastlingViT('deit-tiny', attn), CastlingTimm('vit_tiny_patch16_224', attn=attn)
    counts = [count_complexity(model, torch.zeros(1, 3, 96, 250)) for model in (ours, timms)]
    assert counts[0].macs == counts[1].macs > 1e8
    assert counts[1].params - counts[0].params == 192  # a position of the class token


@pytest.mark.parametrize('out_indices', [(-1,), (0, 1, 2), (0, -2), (1,), (2, 0)])
def test_out_indices(out_indices):
    """Only the maps asked for, in their order, and nothing after the last of them is built."""
    full = backbone(args=tiny(3), out_indices=(0, 1, 2))
    part = CastlingTimm(DINO, attn=SOFTMAX, timm_args=tiny(3), out_indices=out_indices).eval()
    numbers = [index % 3 for index in out_indices]
    assert len(part.vit.blocks) == 1 + max(numbers)
    assert ('vit.norm.weight' in part.state_dict()) == (2 in numbers)
    missing, _ = part.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    with torch.no_grad():
        expected, maps = full(image(24, 40)), part(image(24, 40))
    for index, ours in zip(numbers, maps, strict=True):
        assert torch.equal(ours, expected[index])


@pytest.mark.parametrize('softmax_blocks', [(), (-1,), (0, 2), (0, 1, 2)])
def test_softmax_blocks(softmax_blocks):
    model = backbone(attn=CASTLING, args=tiny(3), softmax_blocks=softmax_blocks)
    kept = [i for i, block in enumerate(model.vit.blocks) if not hasattr(block.attn, 'castling')]
    assert kept == sorted(i % 3 for i in softmax_blocks)


@pytest.mark.parametrize('name', [DINO, 'eva02_tiny_patch14_224'])
def test_checkpointing_gives_the_same_maps_and_gradients(name):
    """Also the same samples are dropped, and blocks run a second time in the backward pass."""
    calls, results = [], []
    for with_cp in (False, True):
        model = backbone(name, CASTLING, with_cp=with_cp, drop_path_rate=0.3).train()
        model.vit.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(1)
        maps = model(image(24, 40, batch=4))
        maps[0].square().sum().backward()
        results.append((maps, [parameter.grad for parameter in model.parameters()]))
    assert len(calls) == 3
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    with torch.no_grad():
        model.eval()(image(24, 40))
    assert len(calls) == 4 and not model.vit.grad_checkpointing


def test_drop_path_rises_from_block_to_block():
    model = backbone(args=tiny(3), drop_path_rate=0.2, out_indices=(1,))
    rates = [getattr(block.drop_path1, 'drop_prob', 0.0) for block in model.vit.blocks]
    assert rates == pytest.approx([0, 0.1])


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2])
def test_frozen_stages(frozen_stages):
    name = 'vit_small_patch14_reg4_dinov2'
    model = backbone(name, CASTLING, frozen_stages=frozen_stages)
    assert model.train() is model
    vit = model.vit
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    starts = ['vit.cls', 'vit.reg', 'vit.pos', 'vit.patch'], ['vit.blocks.0'], ['vit.blocks.1']
    expected = [start for part in starts[: frozen_stages + 1] for start in part]
    expected += ['vit.norm'] if frozen_stages == 2 else []
    assert set(frozen) == {
        name for name, _ in model.named_parameters() if name.startswith(tuple(expected))
    }
    parts = [vit.patch_embed, *vit.blocks]
    assert [part.training for part in parts] == [i > frozen_stages for i in range(3)]


def test_layer_depth():
    model = backbone('vit_small_patch14_reg4_dinov2')
    depths = {
        name: model.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name, _ in model.named_parameters()
    }
    assert {total for _, total in depths.values()} == {4}
    for name, (layer, _) in depths.items():
        place = {'vit.blocks.0': 1, 'vit.blocks.1': 2, 'vit.norm.': 3}
        assert layer == next((n for start, n in place.items() if name.startswith(start)), 0), name
    assert model.get_layer_depth('decode_head.conv.weight', 'backbone.') == (3, 4)


def test_config_and_its_softmax_twin():
    cfg = Config(dict(model=dict(backbone=dict(type='CastlingTimm', timm_args=tiny()))))
    model = MODELS.build(cfg.model.backbone)
    assert sum(isinstance(module, FocalAttention) for module in model.modules()) == 2
    twin = softmax_twin(cfg)
    assert twin.model.backbone.pop('attn') == SOFTMAX
    assert twin.model.backbone == cfg.model.backbone


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(model_name='vit_small_patch14_dinov'), 'no model .*nearest are .*patch14_dinov2'),
        (dict(model_name='swin_tiny_patch4_window7_224'), 'is no plain ViT.*vision_transformer'),
        (dict(softmax_blocks=(2,)), 'softmax_blocks.*2 blocks'),
        (dict(out_indices=()), 'out_indices is empty'),
        (dict(out_indices=(0,), frozen_stages=2), 'frozen_stages is from -1 to 1'),
    ],
)
def test_what_does_not_exist(config, message):
    with pytest.raises(InputError, match=message):
        CastlingTimm(**config, timm_args=tiny())


# Weights.


def loaded(name: str, weights: dict, path: Path, args: dict | None = None, **config):
    """A tiny backbone with weights that were saved in a file."""
    weights = {key: value.contiguous() for key, value in weights.items()}
    if path.suffix == '.safetensors':
        save_file(weights, path)
    else:
        torch.save(weights, path)
    model = CastlingTimm(
        name, str(path), **dict(dict(attn=SOFTMAX), **config), timm_args=args or tiny()
    )
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize('name', NAMES)
def test_timms_own_keys(tmp_path, messages, name):
    """Of a classifier, in both forms; what the maps do not need is said."""
    args = dict(dynamic_img_size=True, **tiny())
    theirs = randomised(timm.create_model(name, num_classes=3, **args))
    twin = loaded(name, theirs.state_dict(), tmp_path / 'vit.pth')
    with torch.no_grad():
        tokens = theirs.forward_features(image(24, 40))
        if isinstance(theirs.norm, nn.Identity):
            tokens = theirs.fc_norm(tokens)
        maps = twin(image(24, 40))[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(maps, tokens[:, -15:], rtol=1e-5, atol=1e-5)
    assert 'others of the file are not used (' in messages[-1] and 'new' not in messages[-1]
    model = loaded(name, theirs.state_dict(), tmp_path / 'vit.pth', attn=CASTLING)
    assert '; 2 of the linear attention are new; ' in messages[-1]
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in twin.state_dict().items())


TRANSFORMERS = {  # timm's name; what the model's config has besides; its leading tokens
    'ViT': ('vit_tiny_patch16_224', dict(layer_norm_eps=1e-6), 1),
    'Dinov2': (DINO, dict(), 1),
    'Dinov2WithRegisters': ('vit_small_patch14_reg4_dinov2', dict(), 5),
    'DINOv3ViT': ('vit_small_patch16_dinov3_qkvb', dict(num_register_tokens=4), 5),
    'DeiT': ('deit_tiny_distilled_patch16_224', dict(layer_norm_eps=1e-6), 2),
    'CLIPVision': ('vit_base_patch16_clip_224', dict(hidden_act='gelu'), 1),
    "OpenAI's CLIPVision": ('vit_base_patch16_clip_quickgelu_224', dict(), 1),
    'SiglipVision': ('vit_base_patch16_siglip_224', dict(), 0),
}


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_models_of_transformers(tmp_path, name):
    """The features of their own model, on the grid that its positions are learnt on."""
    timms, options, extra = TRANSFORMERS[name]
    name = name.split()[-1]
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    config = getattr(transformers, f'{name}Config')(image_size=32, patch_size=8, **sizes, **options)
    theirs = randomised(getattr(transformers, f'{name}Model')(config))
    x = image(32, 32)
    with torch.no_grad():
        tokens = theirs(x).last_hidden_state[:, extra:]
        if name == 'CLIPVision':  # it norms the class token alone
            tokens = theirs.vision_model.post_layernorm(tokens)
        (maps,) = loaded(timms, theirs.state_dict(), tmp_path / 'vit.safetensors')(x)
    assert tokens.std() > 0.1
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)


def test_mae_of_transformers(tmp_path):
    """From the file of its pretraining, against its encoder when it hides no patch."""
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    config = transformers.ViTMAEConfig(
        image_size=32, patch_size=8, mask_ratio=0, layer_norm_eps=1e-6, **sizes
    )
    theirs = randomised(transformers.ViTMAEForPreTraining(config))
    ours = loaded('vit_tiny_patch16_224', theirs.state_dict(), tmp_path / 'vit.safetensors')
    with torch.no_grad():
        noise = torch.arange(16.0).expand(2, -1)  # the order of the patches
        tokens = theirs.vit(image(32, 32), noise).last_hidden_state[:, 1:]
        (maps,) = ours(image(32, 32))
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)


def test_models_of_mmpretrain(tmp_path):
    """From the file of a classifier."""
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=128)
    theirs = VisionTransformer(arch, img_size=32, patch_size=8, out_type='featmap')
    randomised(theirs)
    weights = {f'backbone.{key}': value for key, value in theirs.state_dict().items()}
    weights['head.layers.head.weight'] = torch.ones(3, 32)
    ours = loaded('vit_tiny_patch16_224', weights, tmp_path / 'vit.pth')
    with torch.no_grad():
        torch.testing.assert_close(ours(image(32, 32)), theirs(image(32, 32)))


def test_gated_mlps_of_transformers(tmp_path):
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32)
    config = transformers.Dinov2Config(**sizes, patch_size=8, mlp_ratio=4, use_swiglu_ffn=True)
    giant = randomised(transformers.Dinov2Model(config))
    gated = dict(intermediate_size=64, use_gated_mlp=True, hidden_act='silu')
    config = transformers.DINOv3ViTConfig(**sizes, patch_size=8, num_register_tokens=4, **gated)
    huge = randomised(transformers.DINOv3ViTModel(config))
    for theirs, name, ratio in (
        (giant, 'vit_giant_patch14_dinov2', 2.75 * 2),
        (huge, 'vit_huge_plus_patch16_dinov3_qkvb', 2),
    ):
        path, args = tmp_path / 'vit.safetensors', dict(tiny(), mlp_ratio=ratio)
        with torch.no_grad():
            tokens = theirs(image(32, 32)).last_hidden_state[:, -16:]
            (maps,) = loaded(name, theirs.state_dict(), path, args)(image(32, 32))
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)


def test_dinov3_whose_biases_are_zero(tmp_path):
    """timm leaves those out; others are refused."""
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    sizes |= dict(image_size=32, patch_size=8, num_register_tokens=4)
    config = transformers.DINOv3ViTConfig(**sizes)
    weights = randomised(transformers.DINOv3ViTModel(config)).state_dict()
    path = tmp_path / 'vit.safetensors'
    with pytest.raises(InputError, match=r'lacks biases of q or v alone \(blocks'):
        loaded('vit_small_patch16_dinov3', weights, path)
    for key in weights:
        if key.endswith(('q_proj.bias', 'v_proj.bias')):
            weights[key] = torch.zeros_like(weights[key])
    plain = loaded('vit_small_patch16_dinov3', weights, path)
    with_biases = loaded('vit_small_patch16_dinov3_qkvb', weights, path)
    with torch.no_grad():
        torch.testing.assert_close(plain(image(32, 32)), with_biases(image(32, 32)))


def dinov2_keys(weights: dict) -> dict:
    """timm's weights by the names that the authors of DINOv2 have."""
    theirs = {key.replace('reg_token', 'register_tokens'): v for key, v in weights.items()}
    theirs['mask_token'] = torch.ones(1, 32)
    if 'register_tokens' in theirs:  # timm has added the class token's position to it
        own = torch.full((1, 1, 32), 0.5)
        theirs['cls_token'] = theirs['cls_token'] - own
        theirs['pos_embed'] = torch.cat((own, theirs['pos_embed']), 1)
    return theirs


@pytest.mark.parametrize(
    'name', [DINO, 'vit_small_patch14_reg4_dinov2', 'vit_giant_patch14_dinov2']
)
def test_the_authors_keys_of_dinov2(tmp_path, name):
    expected = backbone(name)
    theirs = dinov2_keys(expected.vit.state_dict())
    if 'giant' in name:
        for old, new in (('fc1', 'w12'), ('fc2', 'w3')):
            theirs = {key.replace(f'.mlp.{old}.', f'.mlp.{new}.'): v for key, v in theirs.items()}
    model = loaded(name, theirs, tmp_path / 'dinov2.pth')
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key], rtol=0, atol=1e-6)


def test_arrays_of_jax(tmp_path, jax_arrays):
    """As timm's own reader of the same file has them."""
    path = tmp_path / 'vit.npz'
    np.savez(path, **jax_arrays(patch_size=8, tokens=17))
    theirs = timm.create_model('vit_tiny_patch16_224', num_classes=0, **tiny())
    theirs.load_pretrained(str(path))
    ours = CastlingTimm('vit_tiny_patch16_224', str(path), SOFTMAX, timm_args=tiny())
    ours.init_weights()
    expected = theirs.state_dict()
    assert all(torch.equal(v, expected[key]) for key, v in ours.vit.state_dict().items())


@pytest.mark.parametrize('name', [DINO, 'vit_small_patch14_reg4_dinov2'])
def test_positions_of_another_grid_are_resized(tmp_path, messages, name):
    """Those of the grid alone, as timm does; also from the grid of another library's file."""
    trained = backbone(name)
    theirs, expected = dinov2_keys(trained.vit.state_dict()), trained.vit.pos_embed
    extra = int(name == DINO)
    expected = resample_abs_pos_embed(expected, (6, 6), (4, 4), num_prefix_tokens=extra)
    for weights in (trained.vit.state_dict(), theirs):
        model = loaded(name, weights, tmp_path / 'vit.pth', tiny(side=48))
        torch.testing.assert_close(model.vit.pos_embed, expected)
        assert 'pos_embed is resized from 4x4 to 6x6' in messages[-2]


def test_as_many_positions_of_another_grid(tmp_path, monkeypatch, messages):
    """4x4 for 2x8: another library's are resized; timm's may be of 2x8, and a warning says so."""
    warnings = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'warning', lambda message, *_: warnings.append(str(message)))
    config = transformers.Dinov2Config(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    theirs = randomised(transformers.Dinov2Model(config)).state_dict()
    expected = resample_abs_pos_embed(theirs['embeddings.position_embeddings'], (2, 8), (4, 4))
    model = loaded(DINO, theirs, tmp_path / 'vit.safetensors', tiny(side=(16, 64)))
    torch.testing.assert_close(model.vit.pos_embed, expected)
    assert 'pos_embed is resized from 4x4 to 2x8' in messages[-2] and not warnings
    timms = backbone().vit.state_dict()
    model = loaded(DINO, timms, tmp_path / 'vit.pth', tiny(side=(16, 64)))
    assert torch.equal(model.vit.pos_embed, timms['pos_embed'])
    assert len(warnings) == 1 and 'pos_embed is not resized from 4x4 to 2x8' in warnings[0]
    assert warnings[0].endswith('if it is of 4x4, build the model with img_size=32')


def test_downloaded_weights(monkeypatch, messages):
    """What timm would download is fitted as a file is; timm has brought positions to the grid."""
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', pytest.fail)
    args = tiny(side=(16, 64))
    expected, create = backbone(args=args).vit.state_dict(), timm.create_model

    def download(name, pretrained=False, **options):
        model = create(name, **options)
        if pretrained:
            model.load_state_dict(expected)
        return model

    monkeypatch.setattr(timm, 'create_model', download)
    model = CastlingTimm(DINO, pretrained=True, timm_args=args)
    assert not torch.equal(model.vit.cls_token, expected['cls_token'])
    model.init_weights()
    own = model.vit.state_dict()
    assert all(torch.equal(own[key], value) for key, value in expected.items())
    assert "timm's vit_small_patch14_dinov2: 34 of 34 weights of the model filled" in messages[-1]


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    said = f"the weights of timm's {DINO} cannot be downloaded .*pretrained=FILE.*_WEIGHTS names$"
    with pytest.raises(InputError, match=said) as error:
        CastlingTimm(DINO, pretrained=True, timm_args=tiny()).init_weights()
    assert '\n' not in str(error.value)


def test_a_model_of_timm_with_its_classifier_is_filled(tmp_path, messages):
    """From keys of which timm itself loads none, castlified before or not."""
    config = transformers.Dinov2Config(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    theirs, x = randomised(transformers.Dinov2Model(config)), image(32, 32)
    save_file(theirs.state_dict(), tmp_path / 'vit.safetensors')
    for castlified in (False, True):
        ours = randomised(timm.create_model(DINO, num_classes=5, **tiny()))
        head = ours.head.weight.clone()
        if castlified:
            castlify(ours, SOFTMAX)
        load_vit(ours, tmp_path / 'vit.safetensors')
        assert '34 of 36 weights of the model filled; 2 of heads are new (head)' in messages[-1]
        with torch.no_grad():
            tokens, expected = ours.forward_features(x), theirs(x).last_hidden_state
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours.head.weight, head)
    with pytest.raises(InputError, match=r'does not fit VisionTransformer: .*lacks'):
        load_vit(timm.create_model(DINO, **tiny(depth=3)), tmp_path / 'vit.safetensors')
    with pytest.raises(InputError, match=r'the model ends before blocks\.1 of the file; take'):
        load_vit(timm.create_model(DINO, **tiny(depth=1)), tmp_path / 'vit.safetensors')


def test_blocks_after_out_indices_are_of_the_same_architecture(tmp_path, messages):
    weights, path = backbone(args=tiny(3)).vit.state_dict(), tmp_path / 'vit.pth'
    model = loaded(DINO, weights, path, tiny(3), out_indices=(0,))
    assert torch.equal(model.vit.blocks[0].norm1.weight, weights['blocks.0.norm1.weight'])
    assert 'last that is built are not used (blocks.1, blocks.2)' in messages[-1]
    with pytest.raises(InputError, match=r'the model ends before blocks\.2 of the file'):
        loaded(DINO, weights, path, tiny(2), out_indices=(0,))


def test_learnt_rotary_frequencies_are_not_dropped(tmp_path):
    args = dict(tiny(), num_classes=3)
    mixed = timm.create_model('vit_small_patch16_rope_mixed_224', **args)
    save_file(mixed.state_dict(), tmp_path / 'vit.safetensors')
    axial = timm.create_model('vit_small_patch16_rope_224', **args)
    with pytest.raises(InputError, match=r'the model lacks rotary positions \(rope\.freqs\)'):
        load_vit(axial, tmp_path / 'vit.safetensors')
    other = timm.create_model('vit_small_patch16_rope_mixed_224', **args)
    load_vit(other, tmp_path / 'vit.safetensors')
    assert torch.equal(other.rope.freqs, mixed.rope.freqs)


def test_other_models_are_refused_before_the_file_is_read():
    for model in (timm.create_model('test_convnext'), nn.Linear(2, 2)):
        said = f"fills timm's plain ViTs .*, not {type(model).__name__}: take timm.create_model"
        with pytest.raises(InputError, match=said):
            load_vit(model, 'absent.pth')


@pytest.mark.parametrize(
    ('file', 'model', 'message'),
    [
        ('vit_tiny_patch16_224', DINO, r'the file lacks blocks\.\*\.ls1\.gamma, blocks\.\*\.ls2'),
        (DINO, 'vit_tiny_patch16_224', r'the model lacks LayerScale \(blocks\.\*\.ls1\.gamma'),
        (DINO, 'vit_small_patch14_reg4_dinov2', r'the file lacks reg_token;'),
        ('vit_small_patch14_reg4_dinov2', DINO, r'the model lacks register tokens \(reg_token\);'),
        ('eva02_tiny_patch14_224', DINO, r'the model lacks biases of q or v alone \('),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, file, model, message):
    with pytest.raises(InputError, match=r'vit\.safetensors does not fit .*' + message):
        loaded(model, backbone(file).vit.state_dict(), tmp_path / 'vit.safetensors')


def test_other_sizes_are_refused(tmp_path):
    weights = backbone().vit.state_dict()
    for args, message in (
        (dict(tiny(), patch_size=4), 'the file has patch size 8, and only 4 is read'),
        (tiny(3), r'the file lacks blocks\.\*\.norm1, .* and 4 more; take'),
        (dict(tiny(), embed_dim=48), r'patch_embed\.proj\.bias has \(32,\) where .* \(48,\)'),
    ):
        with pytest.raises(InputError, match=message):
            loaded(DINO, weights, tmp_path / 'vit.pth', args)
    with pytest.raises(InputError, match=r'absent\.pth does not exist'):
        CastlingTimm(DINO, 'absent.pth', timm_args=tiny()).init_weights()


@pytest.mark.skipif('CASTLING_DET_WEIGHTS' not in os.environ, reason='CASTLING_DET_WEIGHTS not set')
def test_a_real_dinov2(monkeypatch):
    """transformers' features, on the grid of the positions and on another that is not square.

    There timm resizes positions with an antialiased filter, and transformers without.
    """
    path = Path(os.environ['CASTLING_DET_WEIGHTS']) / 'vit_s14.safetensors'
    model = CastlingTimm(DINO, str(path), SOFTMAX).eval()
    model.init_weights()
    sizes = dict(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
    theirs = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    missing, left = theirs.load_state_dict(load_file(path), strict=False)
    assert missing == ['embeddings.mask_token'] and not left

    def resized(tokens: Tensor, height: int, width: int) -> Tensor:
        grid = (height // 14, width // 14)
        return resample_abs_pos_embed(theirs.embeddings.position_embeddings, grid, (37, 37))

    for size in ((518, 518), (168, 252)):
        with torch.no_grad():
            (maps,) = model(image(*size, batch=1))
            tokens = theirs(image(*size, batch=1)).last_hidden_state[:, 1:]
        assert tokens.abs().max() > 5
        ours = maps.flatten(2).transpose(1, 2)
        torch.testing.assert_close(ours, tokens, rtol=0, atol=1e-4)
        monkeypatch.setattr(theirs.embeddings, 'interpolate_pos_encoding', resized)
