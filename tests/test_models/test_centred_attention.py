import pytest
import torch
from torch.nn import functional as F

from castling_det.analysis.complexity import count_complexity
from castling_det.errors import InputError
from castling_det.models import CentredAttention
from castling_det.models.centred_attention import GridConv, cell_means

H, DK, DV = 3, 8, 6


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv(num_queries, num_keys):
    shapes = [(num_queries, DK), (num_keys, DK), (num_keys, DV)]
    return [randn(2, H, *shape, seed=seed) for seed, shape in enumerate(shapes)]


def centred(**config):
    """With random weights."""
    attention = CentredAttention(num_heads=H, key_dims=DK, value_dims=DV, **config).double()
    for seed, parameter in enumerate(attention.parameters()):
        parameter.data.copy_(randn(*parameter.shape, seed=seed))
    return attention


@pytest.mark.parametrize('hw', [(4, 4), (5, 7), (2, 3)])
def test_convolution_has_a_filter_a_head_on_the_grid(hw):
    conv = GridConv(H).double()
    assert not conv.weight.any()
    conv.weight.data.copy_(randn(*conv.weight.shape))
    v = randn(2, H, hw[0] * hw[1], DV)
    maps = v.permute(0, 3, 1, 2).reshape(2 * DV, H, *hw)  # heads as channels, as the layer is built
    expected = torch.nn.Conv2d.forward(conv, maps).reshape(2, DV, H, -1).permute(0, 2, 3, 1)
    torch.testing.assert_close(conv(v, hw), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('side', [1, 3, 6])
@pytest.mark.parametrize('hw', [(6, 6), (5, 7), (2, 13)])
def test_cells_are_those_of_adaptive_pooling(hw, side):
    x = randn(2, H, hw[0] * hw[1], DV)
    maps = x.transpose(-2, -1).reshape(2, H * DV, *hw)
    expected = F.adaptive_avg_pool2d(maps, side).reshape(2, H, DV, -1).transpose(-2, -1)
    torch.testing.assert_close(cell_means(x, hw, side), expected, rtol=0, atol=1e-12)


def test_keys_on_another_grid_are_read_at_the_place_of_the_queries():
    """Queries on every second row and column: what full-grid queries give there, with equal q."""
    attention = centred(cells=2)
    q, k, v = qkv(24, 24)
    full = attention(q, k, v, (4, 6), (4, 6)).reshape(2, H, 4, 6, DV)[:, :, ::2, ::2]
    strided = q.reshape(2, H, 4, 6, DK)[:, :, ::2, ::2].reshape(2, H, 6, DK)
    got = attention(strided, k, v, (2, 3), (4, 6))
    torch.testing.assert_close(got, full.reshape(2, H, 6, DV), rtol=0, atol=1e-12)


@pytest.mark.parametrize(('num_extra', 'cells'), [(0, 1), (2, 1), (2, 3)])
def test_fit_is_the_best_that_least_squares_gives(num_extra, cells):
    """No small change of a coefficient comes closer to softmax; and fit gives softmax back."""
    attention = centred(cells=cells)
    args = (*qkv(20 + num_extra, 20 + num_extra), (4, 5), (4, 5), None, num_extra)
    softmax = F.scaled_dot_product_attention(*args[:3])
    assert torch.equal(attention.fit(*args), softmax)
    attention.mass.requires_grad_(False)
    error = (attention(*args) - softmax).square().sum()
    learnt = [parameter for parameter in attention.parameters() if parameter.requires_grad]
    assert len(learnt) == 3
    for gradient in torch.autograd.grad(error, learnt):
        assert gradient.abs().max() < 1e-9
    assert error < (centred(cells=cells)(*args) - softmax).square().sum() / 2


def test_fit_knows_what_softmax_is_to_cells_of_one_token():
    attention = centred(cells=4)
    args = (*qkv(18, 18), (4, 4), (4, 4), None, 2)
    attention.fit(*args)
    torch.testing.assert_close(attention(*args), F.scaled_dot_product_attention(*args[:3]))
    assert attention.mass.abs().max() < 1e-12 and attention.angular.abs().max() < 1e-6


def test_fit_of_tokens_that_are_all_alike_is_finite():
    attention = centred(cells=2)
    q, k, v = (x[:, :, :1].expand(-1, -1, 6, -1) for x in qkv(6, 6))
    attention.fit(q, k, v, (2, 3), (2, 3))
    torch.testing.assert_close(attention(q, k, v, (2, 3), (2, 3)), v.contiguous())


def test_macs_are_a_hand_count_that_grows_with_the_tokens():
    """A query: the sums and their use, the cells and the class token; pooling; the convolution."""
    for hw in ((16, 16), (32, 32)):
        n, (h, w) = hw[0] * hw[1], hw
        attention = CentredAttention(num_heads=H, key_dims=DK, value_dims=DV, cells=2)
        args = (torch.zeros(1, H, 1 + n, dims) for dims in (DK, DK, DV))
        pooling = (2 * h * w + 4 * h) * (DK + DV)
        a_head = 2 * n * DK * DV + (n * 5 + 1 + n) * (DK + DV) + pooling + 9 * n * DV
        assert count_complexity(attention, *args, hw, hw, None, 1).macs == H * a_head


def test_what_it_cannot_do_is_refused():
    attention = centred()
    q, k, v = qkv(6, 6)
    with pytest.raises(InputError, match='takes no bias'):
        attention(q, k, v, (2, 3), (2, 3), bias=randn(H, 6, 6))
    with pytest.raises(InputError, match='needs kv_hw'):
        attention(q, k, v)
    with pytest.raises(InputError, match='cells=0'):
        centred(cells=0)
