import math

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from castling_det.models import CastlingLeViT
from castling_det.models.attention import MaskedSoftmax
from castling_det.models.levit import DropPath, LogitBias
from castling_det.models.pretrained import levit_state_dict

SOFTMAX, CASTLING = dict(type='SoftmaxAttention'), dict(type='CastlingAttention')
TINY = dict(embed_dims=(16, 24, 32), num_heads=(2, 3, 4), depths=(1, 2, 1), key_dims=8)


@torch.no_grad()
def randomise(model, size=96):
    """Fill all that a state dict holds at random, then let the batch norms see one batch.

    After that step the activations of all depths have a size near 1 and differ from place to place.
    """
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith(('running_var', 'bn.weight', 'batch_norm.weight')):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            fan_in = 1 if value.ndim == 1 or 'bias' in key else math.prod(value.shape[1:])
            value.normal_(0, fan_in**-0.5, generator=generator)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.9
    model.train()
    model(image(size, size))
    return model


def levit(arch=TINY, attn=CASTLING, **config):
    torch.manual_seed(0)
    return randomise(CastlingLeViT(arch, attn, **config))


def image(height, width, batch=2):
    """Coarse patches under noise, so that also the deepest maps differ from place to place."""
    generator = torch.Generator().manual_seed(height)
    patches = torch.randn(batch, 3, 5, 5, generator=generator)
    noise = torch.randn(batch, 3, height, width, generator=generator)
    return F.interpolate(patches, (height, width)) + 0.3 * noise


def transformers_levit(arch, image_size=224):
    """transformers' model of one of our sizes in float64, and the function to its four maps."""
    from transformers.models.levit import LevitConfig, LevitModel

    sizes = CastlingLeViT.arch_zoo[arch]
    config = LevitConfig(
        image_size=image_size,
        hidden_sizes=sizes['embed_dims'],
        num_attention_heads=sizes['num_heads'],
        depths=sizes['depths'],
        key_dim=(sizes['key_dims'],) * 3,
    )
    model = LevitModel(config)
    randomise(model, image_size)
    model.double().eval()
    maps = []

    def keep(module, inputs, output):
        if output.ndim == 3:
            side = math.isqrt(output.shape[1])
            output = output.transpose(1, 2).unflatten(2, (side, side))
        maps.append(output)

    model.patch_embeddings.activation_layer_3.register_forward_hook(keep)
    for stage, depth in zip(model.encoder.stages, sizes['depths'], strict=True):
        stage.layers[2 * depth - 1].register_forward_hook(keep)  # the one before downsampling

    @torch.no_grad()
    def forward(x):
        maps.clear()
        tokens = model(x).last_hidden_state
        assert torch.equal(tokens, maps[-1].flatten(2).transpose(1, 2))
        return tuple(maps)

    return model, forward


@pytest.mark.parametrize('arch', ['128s', '128', '192', '256', '384'])
def test_softmax_twin_is_levit(arch):
    model, forward = transformers_levit(arch)
    twin = CastlingLeViT(arch, SOFTMAX).double().eval()
    twin.load_state_dict(levit_state_dict(model.state_dict()), strict=True)
    x = image(224, 224, batch=1).double()
    with torch.no_grad():
        maps = twin(x)
    for ours, theirs in zip(maps, forward(x), strict=True):
        assert theirs.flatten(2).std(2).mean() > 0.05  # from place to place
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


def test_softmax_twin_trained_at_another_size():
    model, forward = transformers_levit('128s', image_size=96)
    twin = CastlingLeViT('128s', SOFTMAX, bias_grid=6).double().eval()
    twin.load_state_dict(levit_state_dict(model.state_dict()), strict=True)
    x = image(96, 96, batch=1).double()
    with torch.no_grad():
        for ours, theirs in zip(twin(x), forward(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
@pytest.mark.parametrize('size', [(224, 224), (65, 97), (33, 250), (128, 40), (1, 1)])
def test_maps_of_any_size(size, attn):
    with torch.no_grad():
        maps = levit(attn=attn).eval()(image(*size))
    for stride, channels, x in zip((8, 16, 32, 64), (8, 16, 24, 32), maps, strict=True):
        assert x.shape == (2, channels, *(math.ceil(n / stride) for n in size))
        assert x.isfinite().all()


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
def test_every_parameter_gets_a_gradient(attn):
    model = levit(attn=attn).train()
    maps = model(image(96, 160))
    sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in maps).backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient.isfinite().all() and gradient.abs().max() > 1e-6, name


def test_residual_branches_start_at_zero():
    """As the authors' do; the downsampling attention has no residual and starts as it is."""
    model = CastlingLeViT(TINY)
    ends = {
        name: module.bn.weight.abs().max().item()
        for name, module in model.named_modules()
        if name.endswith(('attn.proj', 'mlp.down'))
    }
    assert len(ends) == 2 * 6
    for name, weight in ends.items():
        assert weight == ('downsample.attn' in name), name
    x = image(64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x)[1], model.stem(x)[1])


def test_forms_differ_by_what_their_attention_owns():
    softmax, castling = (set(levit(attn=attn).state_dict()) for attn in (SOFTMAX, CASTLING))
    own = softmax - castling
    assert own and all(key.endswith('.bias.table') for key in own)
    own = castling - softmax
    assert own and all(key.endswith('.attn.conv.weight') for key in own)
    inference_form = levit(attn=dict(CASTLING, aux=None))
    assert list(inference_form.state_dict()) == list(levit().state_dict())


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2, 3), (0, 2), (1, 2), (3,)])
def test_out_indices(out_indices):
    """Only the maps asked for, and nothing after the last one is built."""
    full, part = levit().eval(), CastlingLeViT(TINY, out_indices=out_indices).eval()
    assert len(part.stages) == max(out_indices)
    missing, _ = part.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    x = image(96, 64)
    with torch.no_grad():
        expected, maps = full(x), part(x)
    assert len(maps) == len(out_indices)
    for index, ours in zip(out_indices, maps, strict=True):
        assert torch.equal(ours, expected[index])


@pytest.mark.parametrize('out_indices', [(), (0,), (4,), (-1,), (1, 5)])
def test_out_indices_that_do_not_exist(out_indices):
    with pytest.raises(ValueError, match='out_indices'):
        CastlingLeViT(TINY, out_indices=out_indices)


def test_unknown_arch():
    with pytest.raises(ValueError, match="'512'.*'128s'"):
        CastlingLeViT('512')


def test_built_from_the_registry():
    model = MODELS.build(dict(type='CastlingLeViT', arch='nano', out_indices=(1, 2, 3)))
    with torch.no_grad():
        maps = model.eval()(image(64, 96))
    assert [x.shape[1] for x in maps] == [64, 128, 192]


@pytest.mark.parametrize('attn', [SOFTMAX, CASTLING])
def test_an_image_does_not_see_its_batch(attn):
    model, x = levit(attn=attn).eval(), image(96, 64, batch=3)
    with torch.no_grad():
        for together, alone in zip(model(x), model(x[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3])
def test_frozen_stages(frozen_stages, monkeypatch):
    aux_calls = []
    forward = MaskedSoftmax.forward
    monkeypatch.setattr(
        MaskedSoftmax, 'forward', lambda self, *x: aux_calls.append(self) or forward(self, *x)
    )
    model = levit(frozen_stages=frozen_stages)
    assert model.train() is model and model.eval() is model and model.train() is model
    parts = [model.stem, *model.stages]
    frozen, live = parts[: frozen_stages + 1], parts[frozen_stages + 1 :]
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in frozen]
    maps = model(image(64, 96))
    if live:
        sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in maps).backward()
    assert all(p.grad is None and not p.requires_grad for part in frozen for p in part.parameters())
    assert all(p.grad is not None for part in live for p in part.parameters())
    for part, state in zip(frozen, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in part.state_dict().items())
    for part in live:
        counts = [v for k, v in part.state_dict().items() if k.endswith('num_batches_tracked')]
        assert counts and all(count == 2 for count in counts)
    assert set(aux_calls) == {
        m for part in live for m in part.modules() if isinstance(m, MaskedSoftmax)
    }


def test_drop_path():
    x = torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(x)
    assert (out == out[:, :1, :1]).all()
    assert set(out[:, 0, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert drop.eval()(x) is x
    assert DropPath(0.0)(x) is x
    assert DropPath(0.5)(x.bfloat16()).dtype == torch.bfloat16


def test_drop_path_in_the_model():
    """All residuals dropped: the first stage returns what the stem gave it."""
    model = levit(drop_path_rate=1 - 1e-6, out_indices=(1,))
    x = image(64, 64)
    (dropped,) = model.train()(x)
    stem = model.stem(x)[1]
    assert torch.equal(dropped, stem)
    model.eval()
    assert (model(x)[0] - model.stem(x)[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ('arch', 'asked', 'rate'), [('384', None, 0.1), ('384', 0.0, 0.0), ('128s', None, 0.0)]
)
def test_drop_path_rate_of_the_arch(arch, asked, rate):
    model = CastlingLeViT(arch, out_indices=(1,), drop_path_rate=asked)
    assert {m.rate for m in model.modules() if isinstance(m, DropPath)} == {rate}


def logit_bias(grid, stride):
    bias = LogitBias(3, (grid, grid), stride)
    torch.nn.init.normal_(bias.table, generator=torch.Generator().manual_seed(0))
    return bias


@pytest.mark.parametrize(('grid', 'stride'), [(5, 1), (6, 1), (5, 2), (6, 2)])
def test_logit_bias_on_its_own_grid(grid, stride):
    bias = logit_bias(grid, stride)
    out = bias((grid, grid)).detach()
    queries = [(y, x) for y in range(0, grid, stride) for x in range(0, grid, stride)]
    keys = [(y, x) for y in range(grid) for x in range(grid)]
    assert out.shape == (3, len(queries), len(keys))
    for i, (qy, qx) in enumerate(queries):
        for j, (ky, kx) in enumerate(keys):
            assert torch.equal(out[:, i, j], bias.table[:, abs(qy - ky), abs(qx - kx)])


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('hw', [(3, 9), (7, 5), (1, 1), (1, 11)])
def test_logit_bias_on_another_grid(hw, stride):
    """Resized, it is symmetric under flips, and its first and last distances keep their number."""
    bias = logit_bias(5, stride)
    out = bias(hw).detach()
    q_hw = [math.ceil(n / stride) for n in hw]
    assert out.shape == (3, math.prod(q_hw), math.prod(hw)) and out.isfinite().all()
    places = out.unflatten(1, q_hw).unflatten(3, hw)  # (H, q rows, q columns, rows, columns)
    torch.testing.assert_close(places.flip(1, 3), places)
    torch.testing.assert_close(places.flip(2, 4), places)
    torch.testing.assert_close(out[:, 0, 0], bias.table[:, 0, 0].detach())
    if min(hw) > 1:
        torch.testing.assert_close(places[:, 0, 0, -1, -1], bias.table[:, -1, -1].detach())


def test_logit_bias_of_a_doubled_linear_table():
    """Bilinear resizing of a plane: a distance is a share of the image's side."""
    bias = LogitBias(1, (5, 5), 1)
    with torch.no_grad():
        bias.table.copy_(torch.arange(5)[:, None] + 10 * torch.arange(5))
    out = bias((9, 9)).detach().unflatten(1, (9, 9)).unflatten(3, (9, 9))
    rows = torch.arange(9) / 2
    torch.testing.assert_close(out[0, 0, 0], rows[:, None] + 10 * rows)


@pytest.mark.parametrize('frozen_stages', [-2, 4])
def test_frozen_stages_that_do_not_exist(frozen_stages):
    with pytest.raises(ValueError, match='frozen_stages'):
        levit(frozen_stages=frozen_stages)
