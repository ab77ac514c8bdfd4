import copy
import math

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.registry import MODELS, Registry
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict

from castling_det.models import CastlingAttention, NoMixing, SelfAttention, SoftmaxAttention
from castling_det.models import attention as attention_module
from castling_det.models.attention import TokenConv, index_at_queries
from castling_det.ops import linear_angular_attention, masked_softmax_attention

H, DK, DV = 3, 4, 6


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qkv(num_queries, num_keys, seed=0):
    return tuple(
        randn(2, H, *shape, seed=seed + i)
        for i, shape in enumerate([(num_queries, DK), (num_keys, DK), (num_keys, DV)])
    )


def castling(seed=0, **config):
    torch.manual_seed(seed)
    return CastlingAttention(num_heads=H, key_dims=DK, value_dims=DV, **config)


def published_block(weights, x, num_heads, with_aux):
    """The block in its published order, one head and one token at a time."""
    batch, tokens, dims = x.shape
    width = dims // num_heads
    rows = x @ weights['qkv.weight'].T
    if 'qkv.bias' in weights:
        rows = rows + weights['qkv.bias']
    out = torch.zeros(batch, tokens, dims)
    for b in range(batch):
        for head in range(num_heads):
            start = head * width
            q, k, v = (rows[b, :, i * dims + start : i * dims + start + width] for i in range(3))
            probability = torch.softmax(q @ k.T / math.sqrt(width), dim=-1)
            q = torch.stack([token / token.norm() for token in q])
            k = torch.stack([token / token.norm() for token in k])
            taps = weights['dconv.weight'][head, 0, :, 0]
            padded = torch.cat((torch.zeros(4, width), v, torch.zeros(4, width)))
            local = torch.stack([(padded[i : i + 9].T * taps).sum(1) for i in range(tokens)])
            y = 0.5 * v + q @ (k.T @ v) / math.pi
            if with_aux:
                y = y + (probability * (probability > 0.02)) @ v
            y = torch.stack([token / token.norm() for token in y])
            out[b, :, start : start + width] = y + local
    return out @ weights['proj.weight'].T + weights['proj.bias']


def published_weights(dims, num_heads, with_bias):
    weights = {
        'qkv.weight': 0.5 * randn(3 * dims, dims, seed=1),
        'proj.weight': 0.3 * randn(dims, dims, seed=2),
        'proj.bias': randn(dims, seed=3),
        'dconv.weight': randn(num_heads, 1, 9, 1, seed=4),
    }
    if with_bias:
        weights['qkv.bias'] = randn(3 * dims, seed=5)
    return weights


@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('training', [False, True])
def test_published_block(training, with_bias):
    """Aux runs in training; the state dict loads strictly as it is."""
    weights = published_weights(24, 3, with_bias)
    x = randn(2, 30, 24)
    block = SelfAttention(24, 3, qkv_bias=with_bias).train(training)
    keys = set(weights)
    block.load_state_dict(weights, strict=True)
    assert set(weights) == keys
    expected = published_block(weights, x, 3, with_aux=training)
    other = published_block(weights, x, 3, with_aux=not training)
    assert (expected - other).abs().max() > 0.1
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('load', [torch.nn.Module.load_state_dict, mmengine_load_state_dict])
def test_published_weights_load_inside_a_model(load):
    """Without biases of q, k and v those of the block become zero, wherever it stands."""
    model = torch.nn.Sequential(torch.nn.Identity(), SelfAttention(24, 3))
    weights = published_weights(24, 3, with_bias=False)
    load(model, {f'1.{key}': value for key, value in weights.items()}, strict=True)
    x = randn(2, 30, 24)
    torch.testing.assert_close(
        model.eval()(x), published_block(weights, x, 3, with_aux=False), rtol=0, atol=1e-5
    )


def test_copy_of_self_attention_loads_into_itself():
    """EMA copies the model; the copy's hook must not reach back to the original."""
    original = SelfAttention(8, 2)
    before = {key: value.clone() for key, value in original.state_dict().items()}
    duplicate = copy.deepcopy(original)
    weights = {**before, 'dconv.weight': before['attn.conv.weight'] + 1}
    del weights['attn.conv.weight']
    duplicate.load_state_dict(weights, strict=True)
    assert torch.equal(duplicate.attn.conv.weight, before['attn.conv.weight'] + 1)
    assert torch.equal(original.attn.conv.weight, before['attn.conv.weight'])


def test_self_attention_with_softmax():
    block = SelfAttention(24, 3, attn=dict(type='SoftmaxAttention'))
    x = randn(2, 10, 24)
    q, k, v = (part.unflatten(-1, (3, 8)).transpose(1, 2) for part in block.qkv(x).chunk(3, dim=-1))
    mixed = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v
    torch.testing.assert_close(block(x), block.proj(mixed.transpose(1, 2).reshape(2, 10, 24)))


def test_self_attention_passes_on_the_grid_and_the_extra_tokens():
    block, seen = SelfAttention(24, 3), []
    block.attn.register_forward_pre_hook(lambda _, *given: seen.append(given), with_kwargs=True)
    block(randn(2, 21, 24), hw=(4, 5), num_extra_tokens=1)
    ((_, _, _, *grids), options) = seen[0]
    assert (grids, options) == ([(4, 5), (4, 5)], dict(num_extra_tokens=1))


def test_self_attention_width():
    with pytest.raises(ValueError, match='embed_dims=10'):
        SelfAttention(10, 3)


@pytest.mark.parametrize('name', ['CastlingAttention', 'SoftmaxAttention', 'NoMixing'])
def test_built_by_plain_name(name):
    """From the root registry, and from that of a host library below it."""
    config = dict(type=name, num_heads=H, key_dims=DK, value_dims=DV)
    q, k, v = qkv(20, 20)
    host = Registry('model', parent=MODELS, scope=f'host_of_{name}')
    for registry in (MODELS, host):
        assert registry.build(config)(q, k, v).shape == (2, H, 20, DV)


@pytest.mark.parametrize('name', ['CastlingAttention', 'SoftmaxAttention', 'SelfAttention'])
def test_every_parameter_gets_a_gradient(name):
    if name == 'SelfAttention':
        module, inputs = SelfAttention(24, 3), (randn(2, 10, 24),)
    else:
        module = MODELS.build(dict(type=name, num_heads=H, key_dims=DK, value_dims=DV))
        inputs = qkv(10, 10)
    inputs = [x.requires_grad_() for x in inputs]
    module(*inputs).square().sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in (*inputs, *module.parameters()))


def test_token_conv_is_a_filter_along_the_tokens():
    torch.manual_seed(0)
    conv, v = TokenConv(H, 5), randn(2, H, 7, DV)
    out = conv(v)
    for head in range(H):
        for i in range(7):
            expected = sum(
                conv.weight[head, 0, tap, 0] * v[:, head, i + tap - 2]
                for tap in range(5)
                if 0 <= i + tap - 2 < 7
            )
            torch.testing.assert_close(out[:, head, i], expected)


@pytest.mark.parametrize('num_tokens', [1, 3, 30])
def test_token_conv_equals_its_specification(num_tokens):
    """Values and gradients, also of values that lie in memory as a backbone cuts them."""
    torch.manual_seed(0)
    conv = TokenConv(H, 9).double()
    v = randn(2, num_tokens, H, DK + DV).double().transpose(1, 2)[..., DK:].requires_grad_()
    results = []
    for forward in (conv.forward, super(TokenConv, conv).forward):
        out = forward(v)
        gradients = torch.autograd.grad((out * randn(*out.shape)).sum(), (v, conv.weight))
        assert gradients[1].abs().max() > 0.1
        results.append((out, *gradients))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match='odd.*not 8'):
        castling(kernel_size=8)


def test_extra_tokens_stay_out_of_the_convolution():
    extra, hw = 2, (4, 5)
    attn = castling()
    attn.conv.weight.data.mul_(100)
    q, k, v = qkv(22, 22)
    mixed = linear_angular_attention(q, k, v, aux=masked_softmax_attention(q, k, v, 0.02)[0])
    out = attn(q, k, v, hw, hw, num_extra_tokens=extra)
    assert torch.equal(out[:, :, :extra], mixed[:, :, :extra])
    local = attn.conv(v[:, :, extra:])
    torch.testing.assert_close(out[:, :, extra:], mixed[:, :, extra:] + local)
    # They do take part in the attention, both ways.
    v = v.requires_grad_()
    out = attn(q, k, v, hw, hw, num_extra_tokens=extra)
    of_grid = torch.autograd.grad(out[:, :, -1].sum(), v, retain_graph=True)[0]
    of_extra = torch.autograd.grad(out[:, :, 0].sum(), v)[0]
    assert of_grid[:, :, 0].abs().sum() > 0 and of_extra[:, :, -1].abs().sum() > 0


@pytest.mark.parametrize('extra', [0, 2])
@pytest.mark.parametrize('kernel_size', [None, 9])
@pytest.mark.parametrize(
    ('q_hw', 'kv_hw', 'rows', 'cols'),
    [
        ((4, 4), (7, 7), [0, 2, 4, 6], [0, 2, 4, 6]),
        ((13, 2), (26, 3), range(0, 26, 2), [0, 2]),
        ((3, 5), (5, 9), [0, 2, 4], [0, 2, 4, 6, 8]),
        ((8, 2), (4, 4), [0, 0, 1, 1, 2, 2, 3, 3], [0, 2]),
        ((2, 8), (2, 4), [0, 1], [0, 0, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_queries_on_another_grid(q_hw, kv_hw, rows, cols, kernel_size, extra):
    """The own values and the convolution are read at the queries' places."""
    attn = castling(kernel_size=kernel_size).eval()
    num_keys = math.prod(kv_hw)
    q, k, v = qkv(extra + math.prod(q_hw), extra + num_keys)
    places = [row * kv_hw[1] + col for row in rows for col in cols]
    own_index = torch.tensor([*range(extra), *(extra + place for place in places)])
    expected = linear_angular_attention(q, k, v, v[:, :, own_index])
    if kernel_size is not None:
        local = attn.conv(v[:, :, extra:])
        expected[:, :, extra:] += local[:, :, places]
    out = attn(q, k, v, q_hw, kv_hw, num_extra_tokens=extra)
    torch.testing.assert_close(out, expected)


def test_index_at_queries_against_loops():
    cpu = torch.device('cpu')

    def place(query, num_queries, num_keys):
        stride = -(-num_keys // num_queries)
        last_fits = (num_queries - 1) * stride <= num_keys - 1
        return query * stride if last_fits else math.floor(query * num_keys / num_queries)

    for nq in range(1, 13):
        for nk in range(1, 13):
            along = [place(i, nq, nk) for i in range(nq)]
            assert min(along) >= 0 and max(along) < nk and along == sorted(along)
            rows = index_at_queries((nq, 2), (nk, 3), cpu)
            assert rows.dtype == torch.int64
            assert rows.tolist() == [row * 3 + col for row in along for col in (0, 2)]
            cols = index_at_queries((2, nq), (3, nk), cpu)
            assert cols.tolist() == [row * nk + col for row in (0, 2) for col in along]
            if nq == -(-nk // 2):
                assert along == list(range(0, nk, 2))


def test_differing_grids_are_needed():
    attn = castling()
    with pytest.raises(ValueError, match='q_hw and kv_hw'):
        attn(*qkv(4, 16))
    with pytest.raises(ValueError, match='q_hw and kv_hw'):
        attn(*qkv(4, 16), q_hw=(2, 2))


def test_bias_is_refused():
    with pytest.raises(ValueError, match='bias'):
        castling()(*qkv(12, 12), bias=torch.zeros(H, 12, 12))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_softmax_adds_the_bias(dtype):
    attn = SoftmaxAttention(H, DK, DV)
    q, k, v = (x.to(dtype) for x in qkv(4, 12))
    bias = randn(H, 4, 12, seed=9).requires_grad_()
    out = attn(q, k, v, bias=bias)
    logits = q.float() @ k.float().transpose(-2, -1) * DK**-0.5
    expected = (logits + bias).softmax(-1) @ v.float()
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=tolerance)
    assert (attn(q, k, v) - out).abs().max() > 0.1
    ours, theirs = (torch.autograd.grad(y.float()[..., 0].sum(), bias)[0] for y in (out, expected))
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=10 * tolerance)


def test_aux_owns_nothing():
    with_aux, without = castling(), castling(aux=None)
    assert list(with_aux.state_dict()) == list(without.state_dict()) == ['conv.weight']
    assert not list(with_aux.aux.parameters()) and not list(with_aux.aux.buffers())
    q, k, v = qkv(12, 12)
    assert torch.equal(with_aux.eval()(q, k, v), without.train()(q, k, v))


def test_aux_runs_in_training_only():
    attn, (q, k, v) = castling(), qkv(12, 12)
    aux, _ = masked_softmax_attention(q, k, v, 0.02)
    local = attn.conv(v)
    torch.testing.assert_close(attn(q, k, v), linear_angular_attention(q, k, v, aux=aux) + local)
    torch.testing.assert_close(attn.eval()(q, k, v), linear_angular_attention(q, k, v) + local)


def test_aux_is_skipped_at_ramp_1(monkeypatch):
    attn, (q, k, v) = castling(), qkv(12, 12)
    inference = attn.eval()(q, k, v)
    attn.train().ramp = 1.0

    def fail(*args):
        raise AssertionError('the auxiliary branch ran')

    monkeypatch.setattr(attention_module, 'masked_softmax_attention', fail)
    assert torch.equal(attn(q, k, v), inference)
    attn.ramp = 0.99
    with pytest.raises(AssertionError, match='ran'):
        attn(q, k, v)


def test_aux_vanishes_continuously_enough():
    """Just before ramp 1 the masks are as good as empty: skipping aux changes nothing there."""
    attn, (q, k, v) = castling(), qkv(64, 64)
    inference = attn.eval()(q, k, v)
    attn.train().ramp = 0.999
    assert torch.equal(attn(q, k, v), inference)


@pytest.mark.parametrize('ramp', [0.0, 0.25, 0.9])
def test_threshold(monkeypatch, ramp):
    thresholds = []

    def record(q, k, v, threshold):
        thresholds.append(threshold)
        return v[:, :, : q.shape[2]], None

    monkeypatch.setattr(attention_module, 'masked_softmax_attention', record)
    attn = castling(aux=dict(threshold=0.5))
    attn.ramp = ramp
    attn(*qkv(4, 16), q_hw=(2, 2), kv_hw=(4, 4))
    assert thresholds == [pytest.approx(0.5 + 0.5 * ramp)]


@pytest.mark.parametrize('ramp', [0.0, 0.25, 1.0])
def test_mask_and_nonzeros(ramp):
    """Counted entry by entry."""
    attn, (q, k, v) = castling(aux=dict(threshold=0.3)), qkv(12, 12)
    attn.ramp = ramp
    p = (q @ k.transpose(-2, -1) * DK**-0.5).softmax(-1)
    above = sum(entry > 0.3 + 0.7 * ramp for entry in p.flatten().tolist())
    assert attn.aux.mask(q, k, ramp).sum() == above
    attn(q, k, v)
    if ramp < 1:
        assert attn.aux.nonzeros.item() == pytest.approx(above / p.numel()) and above > 0
    else:
        assert attn.aux.nonzeros is None and above == 0


def test_ramp_is_a_number_and_no_state():
    """Neither a parameter nor a buffer, so that averages and checkpoints do not see it."""
    attn = castling()
    assert attn.ramp == 0
    attn.ramp = 0.1
    assert attn.ramp == 0.1 and isinstance(attn.ramp, float)
    assert list(attn.state_dict()) == ['conv.weight'] and not list(attn.buffers())
    duplicate = copy.deepcopy(attn)
    attn.ramp = 0.7
    assert duplicate.ramp == 0.1
    assert attn.to(torch.bfloat16).ramp == 0.7


def test_switch_to_deploy():
    attn, (q, k, v) = castling(), qkv(12, 12)
    inference = attn.eval()(q, k, v)
    for _ in range(2):
        attn.switch_to_deploy()
        assert attn.aux is None
        assert torch.equal(attn.train()(q, k, v), inference)
    attn.ramp = 0.5  # a hook that still runs does no harm


def test_inference_form_has_no_empty_child():
    """mmengine's report walks over all children, also those that are None."""
    dropped = SelfAttention(8, 2)
    dropped.attn.switch_to_deploy()
    without = SelfAttention(8, 2, attn=dict(type='CastlingAttention', aux=None, kernel_size=None))
    for model in (dropped, without):
        assert None not in [child for m in model.modules() for child in m._modules.values()]
        report = get_model_complexity_info(model.eval(), inputs=torch.randn(1, 6, 8))
        assert report['params'] == sum(each.numel() for each in model.parameters())
    assert list(dropped.state_dict()) == list(SelfAttention(8, 2).state_dict())
    assert copy.deepcopy(dropped).attn.aux is None


def test_autocast_is_finite_in_training():
    block = SelfAttention(24, 3)
    x = (100 * randn(2, 64, 24)).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        out = block(x)
    out.float().square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in block.parameters())


def test_no_mixing():
    """Zero on one grid; where the grid is halved, the mean of what each query replaces."""
    attn, (q, k, v) = NoMixing(H, DK, DV), qkv(16, 16)
    assert (attn(q, k, v, (4, 4), (4, 4)) == 0).all()
    out = attn(q[:, :, :4], k, v, (2, 2), (4, 4))
    for query, keys in enumerate(([0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15])):
        torch.testing.assert_close(out[:, :, query], v[:, :, keys].mean(2))
