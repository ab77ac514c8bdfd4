import math

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn import functional as F

from castling_det.analysis.complexity import count_complexity
from castling_det.models import CastlingAttention, CastlingViT, SoftmaxAttention
from castling_det.models.attention import MaskedSoftmax
from castling_det.models.levit import DropPath
from castling_det.models.pretrained import vit_state_dict

SOFTMAX, CASTLING = dict(type='SoftmaxAttention'), dict(type='CastlingAttention')
TINY = dict(embed_dims=32, num_heads=4, depths=3)


@torch.no_grad()
def randomise(model):
    """Fill every parameter at random, so that activations have a size near 1."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if 'norm' in name and name.endswith('weight'):
            parameter.uniform_(0.5, 1.5, generator=generator)
        else:
            spread = math.prod(parameter.shape[1:]) ** -0.5 if name.endswith('weight') else 0.5
            parameter.normal_(0, spread, generator=generator)
    return model


def vit(arch=TINY, attn=CASTLING, **config):
    torch.manual_seed(0)
    return randomise(CastlingViT(arch, attn, **config))


def image(height, width, batch=2):
    generator = torch.Generator().manual_seed(height)
    return torch.randn(batch, 3, height, width, generator=generator)


def spread(maps):
    """A scalar to which every place and channel of every map contributes differently."""
    return sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in maps)


def transformers_vit(arch):
    """transformers' ViT of one of our sizes in float64."""
    from transformers.models.vit import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=arch['embed_dims'],
        num_attention_heads=arch['num_heads'],
        num_hidden_layers=arch['depths'],
        intermediate_size=4 * arch['embed_dims'],
        layer_norm_eps=1e-6,
    )
    return randomise(ViTModel(config, add_pooling_layer=False)).double().eval()


@pytest.mark.parametrize('size', [(224, 224), (48, 160)])
@pytest.mark.parametrize('arch', ['deit-tiny', TINY])
def test_softmax_twin_is_vit(arch, size):
    """At the size of its positions and at another one, each block's map and the normalised one."""
    sizes = CastlingViT.arch_zoo[arch] if isinstance(arch, str) else arch
    model, out_indices = transformers_vit(sizes), tuple(range(sizes['depths']))
    twin = CastlingViT(arch, SOFTMAX, out_indices=out_indices).double().eval()
    twin.load_state_dict(vit_state_dict(model.state_dict()), strict=True)
    x = image(*size, batch=1).double()
    with torch.no_grad():
        theirs = model(x, interpolate_pos_encoding=True, output_hidden_states=True)
        maps = twin(x)
    expected = [*theirs.hidden_states[1 : sizes['depths']], theirs.last_hidden_state]
    for ours, tokens in zip(maps, expected, strict=True):
        patches = tokens[:, 1:]
        assert patches.std(1).mean() > 0.05  # from place to place
        torch.testing.assert_close(ours.flatten(2).transpose(1, 2), patches, rtol=0, atol=1e-8)
    twin.out_type = 'cls_token'
    with torch.no_grad():
        class_tokens = twin(x)
    for ours, tokens in zip(class_tokens, expected, strict=True):
        torch.testing.assert_close(ours, tokens[:, 0], rtol=0, atol=1e-8)


@pytest.mark.usefixtures('weights_of_zeros')
@pytest.mark.parametrize(
    ('arch', 'params', 'macs'),
    [
        ('deit-tiny', 5.72e6, 1.26e9),
        ('deit-small', 22.05e6, 4.61e9),
        ('deit-base', 86.57e6, 17.58e9),
    ],
)
def test_softmax_twin_against_the_published_table(arch, params, macs):
    """DeiT's numbers, which include a head of 1000 classes."""
    complexity = count_complexity(CastlingViT(arch, SOFTMAX), torch.zeros(1, 3, 224, 224))
    head = 1000 * CastlingViT.arch_zoo[arch]['embed_dims']
    assert complexity.params + head + 1000 == pytest.approx(params, rel=0.01)
    assert complexity.macs + head == pytest.approx(macs, rel=0.01)


def hand_count(arch, height, width):
    """MACs of the castling ViT from the shapes of its layers alone; a filter has nine taps."""
    sizes = CastlingViT.arch_zoo[arch]
    dims, heads = sizes['embed_dims'], sizes['num_heads']
    patches = math.ceil(height / 16) * math.ceil(width / 16)
    tokens = patches + 1
    attention = 2 * heads * tokens * (dims // heads) ** 2 + 9 * patches * dims
    block = 12 * tokens * dims**2 + attention
    return 3 * 16 * 16 * patches * dims + sizes['depths'] * block


@pytest.mark.parametrize(('arch', 'size'), [('nano', (64, 75)), ('deit-tiny', (224, 320))])
def test_castling_form_equals_a_hand_count(arch, size):
    complexity = count_complexity(CastlingViT(arch), torch.zeros(1, 3, *size))
    assert complexity.macs == hand_count(arch, *size)


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
@pytest.mark.parametrize('with_cls_token', [True, False])
@pytest.mark.parametrize('size', [(64, 64), (65, 97), (33, 250), (1, 1)])
def test_maps_of_any_size(size, with_cls_token, attn):
    model = vit(attn=attn, with_cls_token=with_cls_token, out_indices=(0, 2)).eval()
    with torch.no_grad():
        maps = model(image(*size))
    assert len(maps) == 2
    for x in maps:
        assert x.shape == (2, 32, *(math.ceil(n / 16) for n in size)) and x.isfinite().all()


def test_partial_patches_are_filled_with_zeros_below_and_right():
    model, x = vit().eval(), image(33, 70)
    with torch.no_grad():
        (cut,), (padded,) = model(x), model(F.pad(x, (0, 10, 0, 15)))
    assert torch.equal(cut, padded)


def test_positions_are_learnt_on_their_own_grid():
    """On it they are added as they are; on another a constant map stays constant."""
    model = vit(pos_grid=(2, 5), with_cls_token=False).eval()
    embed = model.embed
    with torch.no_grad():
        tokens, hw = embed(torch.zeros(1, 3, 32, 80))
        assert hw == (2, 5)
        expected = embed.proj.bias[:, None] + embed.pos_embed.flatten(2)
        torch.testing.assert_close(tokens.transpose(1, 2), expected)
        embed.pos_embed.copy_(torch.arange(32.0)[:, None, None].expand(32, 2, 5))
        tokens, _ = embed(torch.zeros(1, 3, 112, 48))
    expected = embed.proj.bias + torch.arange(32.0)
    torch.testing.assert_close(tokens, expected.expand(1, 21, 32).detach())


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
@pytest.mark.parametrize('size', [(64, 64), (33, 90)])
def test_every_parameter_gets_a_gradient(attn, size):
    model = vit(attn=attn).train()
    spread(model(image(*size))).backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient.isfinite().all() and gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
def test_checkpointing_gives_the_same_maps_and_gradients(attn):
    """Also the same samples are dropped, and blocks run a second time in the backward pass."""
    calls, results = [], []
    for with_cp in (False, True):
        model = vit(attn=attn, with_cp=with_cp, drop_path_rate=0.3).train()
        model.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(1)
        maps = model(image(48, 80, batch=4))
        spread(maps).backward()
        results.append((maps, [parameter.grad for parameter in model.parameters()]))
    assert len(calls) == 3
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    with torch.no_grad():
        model.eval()(image(48, 80))
    assert len(calls) == 4


def test_class_token_is_off_the_grid():
    """The convolution sees the patches alone, and passes the class token by."""
    model, qkv, convolved = vit().eval(), [], []
    attn = model.blocks[0].attn
    attn.qkv.register_forward_hook(lambda _, inputs, output: qkv.append(output))
    attn.attn.conv.register_forward_pre_hook(lambda _, inputs: convolved.append(*inputs))
    with torch.no_grad():
        model(image(48, 64))
    values = qkv[0].unflatten(-1, (3, 4, 8))[:, :, 2].transpose(1, 2)  # (B, H, 13, D)
    assert torch.equal(convolved[0], values[:, :, 1:])


def test_class_token_takes_part_in_the_attention():
    model, x = vit().eval(), image(48, 64)
    with torch.no_grad():
        (before,) = model(x)
        model.embed.cls_token.copy_(torch.linspace(-1, 1, 32))
        (after,) = model(x)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize('softmax_blocks', [(), (-1,), (0, 2)])
def test_softmax_blocks(softmax_blocks):
    model = vit(softmax_blocks=softmax_blocks)
    kinds = [type(block.attn.attn) for block in model.blocks]
    expected = 3 * [CastlingAttention]
    for index in softmax_blocks:
        expected[index] = SoftmaxAttention
    assert kinds == expected


def test_forms_differ_by_what_their_attention_owns():
    softmax, castling = (set(vit(attn=attn).state_dict()) for attn in (SOFTMAX, CASTLING))
    assert softmax < castling
    assert all(key.endswith('.attn.attn.conv.weight') for key in castling - softmax)
    inference_form = vit(attn=dict(CASTLING, aux=None))
    assert list(inference_form.state_dict()) == list(vit().state_dict())


@pytest.mark.parametrize('out_indices', [(-1,), (0, 1, 2), (0, -2), (1,), (2, 0)])
def test_out_indices(out_indices):
    """Only the maps asked for, in their order, and nothing after the last of them is built."""
    full, part = vit(out_indices=(0, 1, 2)).eval(), CastlingViT(TINY, out_indices=out_indices)
    numbers = [index % 3 for index in out_indices]
    assert len(part.blocks) == 1 + max(numbers)
    assert any(key.startswith('norm.') for key in part.state_dict()) == (2 in numbers)
    missing, _ = part.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    x = image(48, 80)
    with torch.no_grad():
        expected, maps = full(x), part.eval()(x)
    for index, ours in zip(numbers, maps, strict=True):
        assert torch.equal(ours, expected[index])


def test_final_norm():
    """It belongs to the last block's map alone, and ``final_norm=False`` leaves it out."""
    normed, plain = vit(out_indices=(1, 2)).eval(), vit(out_indices=(1, 2), final_norm=False).eval()
    x = image(48, 80)
    with torch.no_grad():
        (inner, last), (same, raw) = normed(x), plain(x)
        expected = F.layer_norm(
            raw.permute(0, 2, 3, 1), (32,), normed.norm.weight, normed.norm.bias, 1e-6
        )
    assert torch.equal(inner, same)
    torch.testing.assert_close(last, expected.permute(0, 3, 1, 2))
    assert normed.state_dict().keys() - plain.state_dict().keys() == {'norm.weight', 'norm.bias'}


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(arch='deit-huge'), "no arch 'deit-huge'.*'deit-tiny'"),
        (dict(arch=TINY, out_indices=(3,)), 'out_indices.*3 blocks'),
        (dict(arch=TINY, out_indices=(-4,)), 'out_indices.*3 blocks'),
        (dict(arch=TINY, out_indices=()), 'out_indices is empty'),
        (dict(arch=TINY, softmax_blocks=(3,)), 'softmax_blocks.*3 blocks'),
        (
            dict(arch=TINY, softmax_blocks=(0, -1), out_indices=(1,)),
            'softmax_blocks has .2., but',
        ),
        (dict(arch=TINY, out_type='raw'), "out_type is 'featmap' or 'cls_token', not 'raw'"),
        (dict(arch=TINY, out_type='cls_token', with_cls_token=False), 'with_cls_token=True'),
        (dict(arch=TINY, frozen_stages=4), 'frozen_stages is from -1 to 3'),
        (dict(arch=TINY, frozen_stages=-2), 'frozen_stages is from -1 to 3'),
        (dict(arch=TINY, out_indices=(0,), frozen_stages=2), 'frozen_stages is from -1 to 1'),
        (dict(arch=dict(TINY, num_heads=5)), 'embed_dims=32 is not a multiple of num_heads=5'),
    ],
)
def test_what_does_not_exist(config, message):
    with pytest.raises(ValueError, match=message):
        CastlingViT(**config)


def test_built_from_the_registry():
    model = MODELS.build(dict(type='CastlingViT', arch='nano', out_indices=(1, -1)))
    with torch.no_grad():
        maps = model.eval()(image(64, 96))
    assert [x.shape[1:] for x in maps] == [(128, 4, 6), (128, 4, 6)]


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
def test_an_image_does_not_see_its_batch(attn):
    model, x = vit(attn=attn).eval(), image(48, 64, batch=3)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0][1:2], model(x[1:2])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3])
def test_frozen_stages(frozen_stages, monkeypatch):
    aux_calls = []
    forward = MaskedSoftmax.forward
    monkeypatch.setattr(
        MaskedSoftmax, 'forward', lambda self, *x: aux_calls.append(self) or forward(self, *x)
    )
    model = vit(frozen_stages=frozen_stages, drop_path_rate=0.5)
    assert model.train() is model and model.eval() is model and model.train() is model
    parts = [model.embed, *model.blocks]
    frozen, live = parts[: frozen_stages + 1], parts[frozen_stages + 1 :]
    if live:
        live.append(model.norm)
    else:
        frozen.append(model.norm)
    torch.manual_seed(0)
    maps = model(image(48, 80, batch=8))
    if live:
        spread(maps).backward()
    assert all(p.grad is None and not p.requires_grad for part in frozen for p in part.parameters())
    assert all(p.grad is not None for part in live for p in part.parameters())
    assert not any(m.training for part in parts[: frozen_stages + 1] for m in part.modules())
    assert set(aux_calls) == {
        m for part in live for m in part.modules() if isinstance(m, MaskedSoftmax)
    }


def test_drop_path_rises_from_block_to_block():
    model = vit(drop_path_rate=0.2)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2])
    short = vit(drop_path_rate=0.2, out_indices=(1,))  # the arch's rates, not another slope
    rates = [module.rate for module in short.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1])


def test_initialisation():
    """DeiT's: narrow weights, zero biases, norms that do nothing; the positions are no constant."""
    torch.manual_seed(0)
    model = CastlingViT('nano', pos_grid=(4, 32))
    for name, parameter in model.named_parameters():
        if 'norm' in name or ('blocks' in name and name.endswith('bias')):
            assert (parameter == float('norm' in name and name.endswith('weight'))).all(), name
        elif 'conv' not in name and 'proj' not in name.replace('attn.proj', ''):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.3), name


def test_layer_depth():
    model = vit(out_indices=(1,))
    depths = {name: model.get_layer_depth(name) for name, _ in model.named_parameters()}
    assert {total for _, total in depths.values()} == {4}
    for name, (depth, _) in depths.items():
        place = name.split('.')
        assert depth == (0 if place[0] == 'embed' else 1 + int(place[1])), name
    assert vit().get_layer_depth('norm.weight') == (4, 5)
    assert vit().get_layer_depth('backbone.blocks.2.norm1.bias', 'backbone.') == (3, 5)
    assert vit().get_layer_depth('neck.blocks.0.weight', 'backbone.') == (4, 5)
