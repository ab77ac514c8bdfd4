import pytest
import torch

from castling_det.analysis.complexity import count_complexity
from castling_det.errors import InputError
from castling_det.models import FocalAttention
from castling_det.ops import focal_attention_naive

H, DK, DV = 3, 8, 6


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv(num_queries, num_keys):
    shapes = [(num_queries, DK), (num_keys, DK), (num_keys, DV)]
    return [randn(2, H, *shape, seed=seed) for seed, shape in enumerate(shapes)]


def focal(**config):
    return FocalAttention(num_heads=H, key_dims=DK, value_dims=DV, **config).double()


def test_it_is_the_function_with_its_cells():
    attention = focal(cells=3)
    assert not attention.state_dict()
    q, k, v = qkv(112, 112)
    expected = focal_attention_naive(q, k, v, (10, 11), (10, 11), 3, 2)
    got = attention(q, k, v, (10, 11), (10, 11), None, 2)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_strided_queries_see_what_those_at_their_places_see():
    """Queries on every second row and column of a grid whose windows are even."""
    attention = focal(cells=4)
    q, k, v = qkv(16 * 24, 16 * 24)
    full = attention(q, k, v, (16, 24), (16, 24)).reshape(2, H, 16, 24, DV)[:, :, ::2, ::2]
    strided = q.reshape(2, H, 16, 24, DK)[:, :, ::2, ::2].reshape(2, H, 96, DK)
    got = attention(strided, k, v, (8, 12), (16, 24))
    torch.testing.assert_close(got, full.reshape(2, H, 96, DV), rtol=0, atol=1e-12)


def test_macs_are_a_hand_count_that_grows_with_the_tokens():
    """A query: its window of 8x8, the class token and the cells; the class token: all; means."""
    for hw in ((16, 16), (32, 32)):
        n, (h, w) = hw[0] * hw[1], hw
        attention = FocalAttention(num_heads=H, key_dims=DK, value_dims=DV, cells=2)
        args = (torch.zeros(1, H, 1 + n, dims) for dims in (DK, DK, DV))
        means = 2 * h * w + 4 * h
        a_head = (n * (64 + 1 + 4) + 1 + n + means) * (DK + DV)
        assert count_complexity(attention, *args, hw, hw, None, 1).macs == H * a_head


def test_what_it_cannot_do_is_refused():
    attention = focal()
    q, k, v = qkv(6, 6)
    with pytest.raises(InputError, match='takes no bias'):
        attention(q, k, v, (2, 3), (2, 3), bias=randn(H, 6, 6))
    with pytest.raises(InputError, match='needs q_hw and kv_hw'):
        attention(q, k, v)
    with pytest.raises(InputError, match='cells=0'):
        focal(cells=0)
