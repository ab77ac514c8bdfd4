import math

import pytest
import torch

from castling_det.ops import (
    angular_kernel,
    angular_kernel_expansion,
    linear_angular_attention,
    linear_angular_attention_naive,
    masked_softmax_attention,
    unit_norm,
)


def random_qkv(num_queries=12, num_keys=12, key_dims=4, value_dims=6, dtype=torch.float64):
    """Seeded leaves (2, 3, N, D)."""
    generator = torch.Generator().manual_seed(num_queries + num_keys)
    shapes = [(num_queries, key_dims), (num_keys, key_dims), (num_keys, value_dims)]
    return [
        torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for shape in shapes
    ]


def correlated_qkv(num_tokens, dtype, key_dims=16, value_dims=16, value_scale=8.0):
    """Tokens that nearly agree, so that sums over them grow with their number."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        1 + 0.1 * torch.randn(1, 2, num_tokens, dims, generator=generator)
        for dims in (key_dims, key_dims, value_dims)
    )
    return [x.to(dtype).requires_grad_() for x in (q, k, value_scale * v)]


def fast_and_naive(q, k, v, own_index, threshold):
    own = v if own_index is None else v[:, :, own_index]
    aux = None if threshold is None else masked_softmax_attention(q, k, v, threshold)[0]
    fast = linear_angular_attention(q, k, v, own, aux)
    threshold = 1.0 if threshold is None else threshold
    return fast, linear_angular_attention_naive(q, k, v, own_index, threshold)


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=['f64', 'f32']
)
@pytest.mark.parametrize('threshold', [None, 0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize('strided', [False, True])
def test_fast_equals_naive(strided, threshold, dtype, tolerance):
    own_index = torch.tensor([0, 2, 8, 10]) if strided else None
    q, k, v = random_qkv(num_queries=4 if strided else 12, dtype=dtype)
    fast, naive = fast_and_naive(q, k, v, own_index, threshold)
    assert fast.dtype == dtype and fast.shape == (2, 3, q.shape[2], 6)
    torch.testing.assert_close(fast, naive, rtol=0, atol=tolerance)
    weight = torch.linspace(-1, 1, fast.numel(), dtype=dtype).reshape(fast.shape)
    gradients = (torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (fast, naive))
    for of_fast, of_naive in zip(*gradients, strict=True):
        assert of_naive.abs().max() > 1e-3
        torch.testing.assert_close(of_fast, of_naive, rtol=0, atol=tolerance)


def test_naive_is_the_formula_written_as_loops():
    q, k, v = (x.detach()[0, 0] for x in random_qkv(3, 6))
    own_index = [0, 2, 5]
    out = linear_angular_attention_naive(
        q[None, None], k[None, None], v[None, None], torch.tensor(own_index), threshold=0.15
    )[0, 0]
    for i in range(3):
        logits = [float(q[i] @ k[j]) / math.sqrt(4) for j in range(6)]
        total = sum(math.exp(logit) for logit in logits)
        y = 0.5 * v[own_index[i]]
        for j in range(6):
            y = y + v[j] * float(q[i] @ k[j]) / float(q[i].norm() * k[j].norm()) / math.pi
            probability = math.exp(logits[j]) / total
            if probability > 0.15:
                y = y + v[j] * probability
        torch.testing.assert_close(out[i], y / y.norm(), rtol=0, atol=1e-12)


def test_linear_terms_but_the_constant_are_summed():
    """The kernel's 1/2 is left out of the sum over keys; a query's own value has it instead."""
    q, k, v = random_qkv()
    cosine = unit_norm(q) @ unit_norm(k).transpose(-2, -1)
    expected = unit_norm(0.5 * v + (angular_kernel_expansion(cosine) - 0.5) @ v)
    torch.testing.assert_close(linear_angular_attention(q, k, v), expected, rtol=0, atol=1e-12)


def test_gradcheck_linear():
    q, k, v = (x[:1, :1, :5].detach().requires_grad_() for x in random_qkv(5, 5))

    def attention(q, k, v):
        return linear_angular_attention(q, k, v, aux=0.3 * v)

    assert torch.autograd.gradcheck(attention, (q, k, v))


def test_unit_norm_is_exact_above_eps():
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    x = x * torch.logspace(-5, 15, 50)[:, None]
    assert x.norm(dim=-1).min() > 1e-6
    assert torch.equal(unit_norm(x), x / x.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize('length', [0.0, 1e-30, 1e-7, 1e-6])
def test_unit_norm_is_zero_up_to_eps(length):
    x = torch.zeros(2, 3, dtype=torch.float64)
    x[0, 0], x[1] = length, 1.0
    x.requires_grad_()
    y = unit_norm(x)
    assert (y[0] == 0).all() and (y[1] != 0).all()
    y.backward(torch.full_like(y, 1e4))
    assert (x.grad[0] == 0).all() and x.grad.isfinite().all()


def test_unit_norm_of_half_precision_does_not_overflow():
    x = torch.full((4,), 60000.0, dtype=torch.float16)
    y = unit_norm(x)
    assert y.dtype == torch.float16 and (y == 0.5).all()


@pytest.mark.parametrize('zeroed', ['q', 'k'])
def test_zero_token_is_exactly_zero(zeroed):
    """A token without direction gives and gets nothing; the others are as if it were absent."""
    q, k, v = (x.detach() for x in random_qkv())
    {'q': q, 'k': k}[zeroed][:, :, 3] = 0
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = linear_angular_attention(q, k, v, own=torch.zeros_like(v))
    if zeroed == 'q':
        assert (out[:, :, 3] == 0).all()
    else:
        others = [i for i in range(12) if i != 3]
        expected = linear_angular_attention(
            q, k[:, :, others], v[:, :, others], own=torch.zeros_like(v)
        )
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    out.sin().sum().backward()
    gradient = {'q': q, 'k': k}[zeroed].grad
    assert (gradient[:, :, 3] == 0).all()
    assert all(x.grad.isfinite().all() and x.grad.abs().max() > 0 for x in (q, k, v))


def test_exact_cancellation_is_exactly_zero():
    """Two opposite keys with one value: the sum over keys is 0 / 0 after the norm."""
    q = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).reshape(1, 1, 2, 2).requires_grad_()
    k = torch.tensor([[0.5, 2.0], [-0.5, -2.0]]).reshape(1, 1, 2, 2).requires_grad_()
    v = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).reshape(1, 1, 2, 2).requires_grad_()
    out = linear_angular_attention(q, k, v, own=torch.zeros_like(v))
    assert (out == 0).all()
    out.backward(torch.full_like(out, 1e4))
    assert all((x.grad == 0).all() for x in (q, k, v))


def test_all_zero_input():
    q, k, v = (torch.zeros_like(x).requires_grad_() for x in random_qkv())
    out = linear_angular_attention(q, k, v, aux=masked_softmax_attention(q, k, v, 0.02)[0])
    assert (out == 0).all()
    out.sum().backward()
    assert all((x.grad == 0).all() for x in (q, k, v))


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_is_finite(dtype, autocast):
    q, k, v = correlated_qkv(1024, dtype, value_scale=256.0)
    sums = unit_norm(k.float()).transpose(-2, -1) @ v.float()
    assert sums.max() > torch.finfo(torch.float16).max
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        aux, _ = masked_softmax_attention(q, k, v, 1e-4)
        out = linear_angular_attention(q, k, v, aux=aux)
    assert aux.dtype == out.dtype == dtype
    reference = linear_angular_attention(*(x.double() for x in (q, k, v)), aux=aux.double())
    torch.testing.assert_close(out.double(), reference, rtol=0, atol=torch.finfo(dtype).eps)
    (out.float() * torch.linspace(-1, 1, 16)).sum().backward()
    assert all(x.grad.dtype == dtype and x.grad.isfinite().all() for x in (q, k, v))


def test_autocast_does_not_lower_float32():
    q, k, v = random_qkv(dtype=torch.float32)
    aux, _ = masked_softmax_attention(q, k, v, 0.02)
    expected = linear_angular_attention(q, k, v, aux=aux)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(masked_softmax_attention(q, k, v, 0.02)[0], aux)
        assert torch.equal(linear_angular_attention(q, k, v, aux=aux), expected)


def test_sums_over_100_000_tokens():
    q, k, v = (x.detach() for x in correlated_qkv(100_000, torch.float32, 8, 8))
    v[:, :, ::2] *= -0.9  # the sum is small against its terms
    out = linear_angular_attention(q, k, v)
    reference = linear_angular_attention(*(x.double() for x in (q, k, v)))
    error = (out - reference).norm(dim=-1)  # of vectors of length 1
    assert (reference.norm(dim=-1) - 1).abs().max() < 1e-12
    assert error.max() < 1e-5


@pytest.mark.parametrize(
    ('cosine', 'error', 'digit'),
    [(0.25, 0.0009, 4), (0.5, 0.0075, 4), (0.7, 0.024, 3), (0.9, 0.070, 3), (1.0, 0.182, 3)],
)
def test_error_of_the_linear_terms(cosine, error, digit):
    cosine = torch.tensor([cosine, -cosine], dtype=torch.float64)
    over, under = (angular_kernel(cosine) - angular_kernel_expansion(cosine)).tolist()
    assert over == pytest.approx(error, abs=0.5 * 10**-digit)
    assert under == pytest.approx(-over, abs=1e-12)


def test_expansion_converges_to_the_kernel():
    cosine = torch.linspace(-1, 1, 101, dtype=torch.float64)
    errors = [
        (angular_kernel(cosine) - angular_kernel_expansion(cosine, terms)).abs()
        for terms in (0, 1, 5, 20, 500)
    ]
    for fewer, more in zip(errors, errors[1:], strict=False):
        assert (more <= fewer + 1e-12).all() and more.max() < fewer.max()
    assert errors[-1].max() < 0.02
    assert errors[-1][1:-1].max() < 1e-4
    assert errors[2][-1].item() == pytest.approx(0.182 - 0.108, abs=0.001)


def test_kernel_at_known_angles():
    angles = torch.tensor([0, 1 / 3, 1 / 2, 1], dtype=torch.float64)
    torch.testing.assert_close(angular_kernel(torch.cos(angles * math.pi)), 1 - angles)
