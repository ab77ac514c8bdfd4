import math

import pytest
import torch
from torch.nn import functional as F

from castling_det.ops import centred_angular_attention, centred_angular_attention_naive

H, DK, DV, N, CELLS = 3, 4, 6, 12, 5


def arguments(num_extra, num_queries=N, dtype=torch.float64):
    """Seeded leaves in the order of the function."""
    generator = torch.Generator().manual_seed(num_extra + num_queries)
    shapes = [(2, H, num_extra + num_queries, DK), (2, H, num_extra + N, DK)]
    shapes += [(2, H, num_extra + N, DV), (2, H, CELLS, DK), (2, H, CELLS, DV)]
    shapes += [(2, H, num_queries, DV), (H,), (H,), (H,)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=['f64', 'f32']
)
@pytest.mark.parametrize('num_queries', [N, 4])
@pytest.mark.parametrize('num_extra', [0, 1, 3])
def test_fast_equals_naive(num_extra, num_queries, dtype, tolerance):
    args = arguments(num_extra, num_queries, dtype)
    fast, naive = centred_angular_attention(*args), centred_angular_attention_naive(*args)
    assert fast.dtype == dtype and fast.shape == (2, H, num_extra + num_queries, DV)
    torch.testing.assert_close(fast, naive, rtol=0, atol=tolerance)
    weight = torch.linspace(-1, 1, fast.numel(), dtype=dtype).reshape(fast.shape)
    gradients = (torch.autograd.grad((y * weight).sum(), args) for y in (fast, naive))
    for number, (of_fast, of_naive) in enumerate(zip(*gradients, strict=True)):
        weighs_nothing = num_extra == 0 and number == 8  # mass, where there are cells alone
        assert weighs_nothing or of_naive.abs().max() > 1e-3
        torch.testing.assert_close(of_fast, of_naive, rtol=0, atol=10 * tolerance)


def test_naive_is_the_formula_written_as_loops():
    args = [x.detach() for x in arguments(num_extra=2)]
    out = centred_angular_attention_naive(*args)[0, 0]
    q, k, v, cell_keys, cell_values, local = (x[0, 0] for x in args[:6])
    coarse, angular, mass = (float(x[0]) for x in args[6:])
    mean_key = sum(k[2:]) / N
    for i in range(2):
        weights = [math.exp(float(q[i] @ key) / 2) for key in k]
        y = sum(w * value for w, value in zip(weights, v, strict=True)) / sum(weights)
        torch.testing.assert_close(out[i], y, rtol=0, atol=1e-12)
    for i in range(N):
        query = q[2 + i]
        extra = [math.exp(float(query @ key) / 2) for key in k[:2]]
        cells = [math.exp(float(query @ key) / 2 + mass) * N / CELLS for key in cell_keys]
        total = sum(extra) + sum(cells)
        fine = local[i]
        for key, value in zip(k[2:], v[2:], strict=True):
            cosine = float(F.cosine_similarity(query, key - mean_key, dim=0))
            fine = fine + angular / N * cosine * value
        y = sum(cells) / total * fine
        for weight, value in zip(extra, v[:2], strict=True):
            y = y + weight / total * value
        for weight, value in zip(cells, cell_values, strict=True):
            y = y + coarse * weight / total * value
        torch.testing.assert_close(out[2 + i], y, rtol=0, atol=1e-12)


def test_it_is_softmax_attention_where_each_token_is_a_cell():
    q, k, v, *_ = (x.detach() for x in arguments(num_extra=2))
    zero, one = torch.zeros(H, dtype=q.dtype), torch.ones(H, dtype=q.dtype)
    out = centred_angular_attention(
        q, k, v, k[:, :, 2:], v[:, :, 2:], torch.zeros_like(v[:, :, 2:]), one, zero, zero
    )
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v), rtol=0, atol=1e-12)


def test_a_vector_added_to_all_keys_changes_nothing():
    q, k, v, cell_keys, *rest = (x.detach() for x in arguments(num_extra=2))
    shift = torch.full((DK,), 3.0, dtype=q.dtype)
    expected = centred_angular_attention(q, k, v, cell_keys, *rest)
    moved = centred_angular_attention(q, k + shift, v, cell_keys + shift, *rest)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    args = [x.detach().to(dtype) for x in arguments(num_extra=1)]
    out = centred_angular_attention(*args)
    expected = centred_angular_attention(*(x.float() for x in args))
    assert out.dtype == dtype and torch.equal(out, expected.to(dtype))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(centred_angular_attention(*(x.float() for x in args)), expected)


def test_zero_keys_and_queries_have_finite_gradients():
    args = arguments(num_extra=1)
    q, k, *rest = args
    with torch.no_grad():
        q[:, :, 3:5] = 0
        k[:, :, 1:] = 1.0  # all keys of the grid are their mean
    grads = torch.autograd.grad(centred_angular_attention(q, k, *rest).square().sum(), args)
    assert all(grad.isfinite().all() for grad in grads)
