"""MAE's encoder: mmpretrain's with softmax attention, true neighbours for the convolution."""

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.models.selfsup.mae import MAEViT
from torch import Tensor, nn

from castling_det import castle
from castling_det.castling import castling_attentions
from castling_det.errors import InputError
from castling_det.models import CastlingAttention, CastlingMAEViT, SoftmaxAttention
from castling_det.models.attention import VisibleGrid
from castling_det.models.mae_vit import wave_positions
from castling_det.models.pretrained import vit_state_dict

SOFTMAX, CASTLING = dict(type='SoftmaxAttention'), dict(type='CastlingAttention')
TINY = dict(embed_dims=32, num_heads=4, depths=3)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Fill every parameter at random, so that activations have a size near 1."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        width = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.normal_(float(parameter.ndim == 1), width**-0.5, generator=generator)
    return model


def image(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))


def spread(latent: Tensor) -> Tensor:
    """A scalar to which every entry contributes differently."""
    return (latent * torch.linspace(-1, 1, latent.numel()).view_as(latent)).sum()


def encoder(attn=CASTLING, **config) -> CastlingMAEViT:
    torch.manual_seed(0)
    return randomise(CastlingMAEViT(TINY, attn, **config))


def encode(model, x, seed=1, mask=True):
    torch.manual_seed(seed)
    return model(x, mask)


def their_encoder(img_size) -> MAEViT:
    arch = dict(embed_dims=32, num_heads=4, num_layers=3, feedforward_channels=128)
    return MAEViT(arch, img_size=img_size, mask_ratio=0.6)


@pytest.mark.parametrize('size', [(96, 96), (64, 112)])
def test_softmax_twin_is_the_encoder_of_mmpretrain(size):
    """For the same weights and the same noise, and with nothing hidden."""
    theirs = randomise(their_encoder(size))
    theirs.eval()
    grid = tuple(side // 16 for side in size)
    twin = CastlingMAEViT(TINY, SOFTMAX, pos_grid=grid, mask_ratio=0.6).eval()
    weights = vit_state_dict(theirs.state_dict())
    weights['embed.pos_embed'] = theirs.pos_embed[:, 1:].transpose(1, 2).unflatten(2, grid)
    twin.load_state_dict(weights, strict=True)
    x = image(*size)
    with torch.no_grad():
        ours, expected = encode(twin, x), encode(theirs, x)
        theirs.out_type = 'featmap'
        whole, expected_whole = twin(x, mask=None)[0], theirs(x, mask=None)[0]
    assert ours[0].shape == (2, 1 + int(0.4 * grid[0] * grid[1]), 32)
    assert ours[0].std(1).mean() > 0.05  # from token to token
    for mine, their in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole, expected_whole, rtol=0, atol=1e-5)


def test_positions_are_those_of_mmpretrain_and_stay():
    theirs = their_encoder(96)
    theirs.init_weights()
    expected = theirs.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (6, 6))
    model = CastlingMAEViT(TINY, pos_grid=6)
    torch.testing.assert_close(model.embed.pos_embed.data, expected)
    assert not model.train().embed.pos_embed.requires_grad
    oblong = wave_positions(32, 3, 6)
    torch.testing.assert_close(oblong, expected[:, :, :3])


def convolved_slowly(conv, v, places, num_places):
    """Nine taps of each token of each image, by the places that are visible."""
    out, reach = torch.zeros_like(v), conv.weight.shape[2] // 2
    for b, visible in enumerate(places.tolist()):
        for i, place in enumerate(visible):
            for tap in range(-reach, reach + 1):
                if 0 <= place + tap < num_places and place + tap in visible:
                    neighbour = v[b, :, visible.index(place + tap)]
                    out[b, :, i] += conv.weight[:, 0, reach + tap] * neighbour
    return out


@pytest.mark.parametrize('num_extra_tokens', [0, 1])
def test_convolution_sees_the_visible_neighbours_on_the_grid(num_extra_tokens):
    torch.manual_seed(0)
    sizes = dict(num_heads=2, key_dims=8, value_dims=8, aux=None)
    attention, without = CastlingAttention(**sizes), CastlingAttention(**sizes, kernel_size=None)
    places = torch.stack([torch.randperm(4 * 7)[:11] for _ in range(3)])
    q, k, v = torch.randn(3, 3, 2, num_extra_tokens + 11, 8)
    grid = VisibleGrid((4, 7), places)
    words = (q, k, v, grid, grid, None, num_extra_tokens)
    local = (attention(*words) - without(*words)).detach()
    expected = convolved_slowly(attention.conv, v[:, :, num_extra_tokens:], places, 28)
    assert not local[:, :, :num_extra_tokens].any()
    torch.testing.assert_close(local[:, :, num_extra_tokens:], expected.detach())


def test_tokens_stand_where_they_were():
    """The first convolution sees the values of the whole image, with zeros for hidden patches."""
    model, seen = encoder().eval(), []
    model.blocks[0].attn.attn.conv.register_forward_pre_hook(lambda _, given: seen.append(*given))
    with torch.no_grad():
        _, mask, _ = encode(model, image(48, 80))
        model(image(48, 80), mask=None)
    assert mask.sum(1).tolist() == [12, 12]
    hidden, whole = seen
    torch.testing.assert_close(hidden, whole * (1 - mask)[:, None, :, None])


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
def test_with_nothing_hidden_it_is_the_backbone(attn):
    model = encoder(attn, mask_ratio=0.0).eval()
    with torch.no_grad():
        latent, mask, ids_restore = encode(model, image(48, 80))
        (whole,) = model(image(48, 80), mask=None)
    assert not mask.any()
    patches = latent[:, 1:].gather(1, ids_restore[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(patches, whole.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
def test_every_parameter_but_positions_gets_a_gradient(attn):
    model = encoder(attn).train()
    spread(encode(model, image(64, 96))[0]).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ['embed.pos_embed']


def test_checkpointing_repeats_the_places():
    """Also of two images that are encoded before the gradients of either."""
    results = []
    for with_cp in (False, True):
        model = encoder(with_cp=with_cp).train()
        latents = [encode(model, image(48, 80), seed)[0] for seed in (1, 2)]
        spread(torch.stack(latents)).backward()
        results.append((latents, [p.grad for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_castled_is_the_training_form_in_eval_and_at_ramp_1():
    model, x = encoder(), image(48, 80)
    outputs = [encode(model.train(), x)[0], encode(model.eval(), x)[0]]
    for _, attention in castling_attentions(model):
        attention.ramp = 1.0
    outputs.append(encode(model.train(), x)[0])
    outputs.append(encode(castle(model), x)[0])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3
    torch.testing.assert_close(outputs[1:], outputs[-1:] * 3, rtol=0, atol=0)


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
@pytest.mark.parametrize('pos_grid', [(3, 5), (2, 7)])
def test_backbone_starts_from_the_file_of_a_pretraining(attn, pos_grid, tmp_path):
    """Whole; its positions are those of the file, on their grid or resized, and are trained."""
    model = encoder(attn, pos_grid=(3, 5)).eval()
    weights = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    weights['neck.mask_token'] = torch.zeros(1, 1, 16)
    torch.save(dict(state_dict=weights), tmp_path / 'mae.pth')
    file = dict(type='Pretrained', checkpoint=str(tmp_path / 'mae.pth'), prefix='backbone')
    cfg = dict(type='CastlingViT', arch=TINY, attn=attn, pos_grid=pos_grid, init_cfg=file)
    backbone = MODELS.build(cfg).eval()
    backbone.init_weights()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    x = image(*(16 * side for side in pos_grid))
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)[0], model(x, mask=None)[0])


@pytest.mark.parametrize('mask_ratio', [1.0, 75, -0.1])
def test_no_share(mask_ratio):
    with pytest.raises(InputError, match=f'mask_ratio is a share .*, not {mask_ratio}'):
        CastlingMAEViT(TINY, mask_ratio=mask_ratio)


def test_windows_have_no_hidden_places():
    model = encoder(dict(type='FocalAttention'))
    with pytest.raises(InputError, match='FocalAttention needs the whole grid'):
        model(image(64, 64))


def test_softmax_blocks():
    model = encoder(softmax_blocks=(-1,)).eval()
    kinds = [type(block.attn.attn) for block in model.blocks]
    assert kinds == [CastlingAttention, CastlingAttention, SoftmaxAttention]
    assert encode(model, image(64, 64))[0].shape == (2, 5, 32)
