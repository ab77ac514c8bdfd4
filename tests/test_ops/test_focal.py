import math

import pytest
import torch
from torch.nn import functional as F

from castling_det.ops import focal_attention, focal_attention_naive

H, DK, DV = 3, 4, 6
# Grids of queries and keys, and most cells a side: windows larger and smaller than cells.
CASES = [
    ((5, 7), (5, 7), 12),
    ((5, 7), (5, 7), 3),
    ((9, 13), (9, 13), 4),
    ((13, 20), (13, 20), 1),
    ((9, 11), (5, 6), 2),
    ((3, 4), (13, 14), 4),
]


def arguments(q_hw, kv_hw, num_extra, dtype=torch.float64):
    """Seeded leaves: q, k, v."""
    generator = torch.Generator().manual_seed(num_extra)
    of_queries, of_keys = (num_extra + math.prod(hw) for hw in (q_hw, kv_hw))
    shapes = [(2, H, of_queries, DK), (2, H, of_keys, DK), (2, H, of_keys, DV)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=['f64', 'f32']
)
@pytest.mark.parametrize('num_extra', [0, 1, 3])
@pytest.mark.parametrize(('q_hw', 'kv_hw', 'cells'), CASES, ids=str)
def test_fast_equals_naive(q_hw, kv_hw, cells, num_extra, dtype, tolerance):
    q, k, v = args = arguments(q_hw, kv_hw, num_extra, dtype)
    fast, naive = (
        function(q, k, v, q_hw, kv_hw, cells, num_extra)
        for function in (focal_attention, focal_attention_naive)
    )
    assert fast.dtype == dtype and fast.shape == (2, H, num_extra + math.prod(q_hw), DV)
    torch.testing.assert_close(fast, naive, rtol=0, atol=tolerance)
    weight = torch.linspace(-1, 1, fast.numel(), dtype=dtype).reshape(fast.shape)
    gradients = (torch.autograd.grad((y * weight).sum(), args) for y in (fast, naive))
    for of_fast, of_naive in zip(*gradients, strict=True):
        torch.testing.assert_close(of_fast, of_naive, rtol=0, atol=10 * tolerance)


def test_naive_is_the_formula_written_for_one_query():
    """A grid of 1x20 in windows of 7, 7 and 6 and cells of 4; the query is the tenth."""
    q, k, v = (x.detach() for x in arguments((1, 20), (1, 20), num_extra=2))
    out = focal_attention_naive(q, k, v, (1, 20), (1, 20), 5, num_extra_tokens=2)[0, 0, 11]
    q, k, v = q[0, 0, 11], k[0, 0], v[0, 0]
    weights = [math.exp(float(q @ k[j]) / 2) for j in (0, 1, *range(9, 16))]
    values = [v[j] for j in (0, 1, *range(9, 16))]
    for begin, outside in ((2, 4), (6, 3), (14, 2), (18, 4)):  # the window has places 7 to 13
        cell = slice(begin, begin + 4)
        weights.append(math.exp(float(q @ k[cell].mean(0)) / 2) * outside)
        values.append(v[cell].mean(0))
    expected = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(('hw', 'cells'), [((5, 7), 7), ((8, 6), 1)])
def test_it_is_softmax_attention_where_cells_are_tokens_or_there_is_one_window(hw, cells):
    q, k, v = (x.detach() for x in arguments(hw, hw, num_extra=2))
    out = focal_attention(q, k, v, hw, hw, cells, num_extra_tokens=2)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v), rtol=0, atol=1e-12)


def test_a_vector_added_to_all_keys_changes_nothing():
    q, k, v = (x.detach() for x in arguments((9, 13), (9, 13), num_extra=2))
    expected = focal_attention(q, k, v, (9, 13), (9, 13), 4, 2)
    moved = focal_attention(q, k + 3.0, v, (9, 13), (9, 13), 4, 2)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_half_precision_is_near(dtype, tolerance):
    q, k, v = (x.detach().to(dtype) for x in arguments((9, 13), (9, 13), num_extra=1))
    out = focal_attention(q, k, v, (9, 13), (9, 13), 4, 1)
    expected = focal_attention_naive(*(x.float() for x in (q, k, v)), (9, 13), (9, 13), 4, 1)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=tolerance)
