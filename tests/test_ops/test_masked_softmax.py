from functools import partial

import pytest
import torch
from torch.nn import functional as F

from castling_det.analysis.latency import peak_memory
from castling_det.ops import (
    masked_softmax,
    masked_softmax_attention,
    masked_softmax_attention_naive,
    softmax_probabilities,
)


def random_qkv(num_queries, num_keys, key_dims=8, value_dims=8, dtype=torch.float64, sharpness=1.0):
    """Seeded leaves (2, 3, N, D), each cut out of a projection as backbones cut them."""
    generator = torch.Generator().manual_seed(num_queries + num_keys)
    shapes = [(num_queries, key_dims), (num_keys, key_dims), (num_keys, value_dims)]
    q, k, v = (
        torch.randn(2, tokens, 3, dims, generator=generator, dtype=torch.float64)
        for tokens, dims in shapes
    )
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in (sharpness * q, k, v)]


def outcome(y, inputs, rows=1.0):
    """y and its gradients, of some rows alone."""
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape) * rows
    return y * rows, *torch.autograd.grad((y * weight).sum(), inputs)


def decided_rows(p, threshold):
    """1 for rows without a probability so near the threshold that rounding decides, or 0."""
    return ((p / threshold - 1).abs() > 1e-5).all(dim=-1, keepdim=True).to(p.dtype)


@pytest.fixture
def small_blocks(monkeypatch):
    """So that a few dozen tokens need several, which do not divide them."""
    monkeypatch.setattr(masked_softmax, 'CPU_BLOCK', 500)


@pytest.fixture
def computed(monkeypatch):
    """Shapes of the blocks whose probabilities are computed."""
    shapes = []

    def record(q, k):
        p = softmax_probabilities(q, k)
        shapes.append(tuple(p.shape))
        return p

    monkeypatch.setattr(masked_softmax, 'softmax_probabilities', record)
    return shapes


@pytest.mark.parametrize('sharpness', [1.0, 5.0])
@pytest.mark.parametrize('threshold', [0.02, 0.1, 0.5])
@pytest.mark.parametrize(
    ('num_queries', 'num_keys', 'key_dims', 'value_dims'),
    [
        (12, 12, 8, 8),
        (33, 33, 8, 8),
        (49, 196, 4, 16),
        (70, 20, 16, 4),
        (3, 600, 8, 8),
        (1, 1, 2, 2),
    ],
)
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 3e-5)], ids=['f64', 'f32']
)
@pytest.mark.usefixtures('small_blocks')
def test_equals_naive(
    num_queries, num_keys, key_dims, value_dims, threshold, sharpness, dtype, tolerance
):
    """In value, gradient and nonzeros; some rows keep nothing, some blocks nothing at all."""
    inputs = random_qkv(num_queries, num_keys, key_dims, value_dims, dtype, sharpness)
    p = softmax_probabilities(*inputs[:2]).detach()
    rows = decided_rows(p, threshold)
    assert rows.mean() > 0.95
    y, nonzeros = masked_softmax_attention(*inputs, threshold)
    naive = masked_softmax_attention_naive(*inputs, threshold)
    assert y.dtype == dtype and not nonzeros.requires_grad
    assert nonzeros.item() == pytest.approx((p > threshold).double().mean().item(), rel=1e-6)
    both = (outcome(each, inputs, rows) for each in (y, naive))
    for ours, expected in zip(*both, strict=True):
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('threshold', [0.0, 0.1, 0.2])
def test_gradcheck(threshold):
    inputs = [x[:1, :1].detach().requires_grad_() for x in random_qkv(5, 7, 4, 3)]
    p = softmax_probabilities(*inputs[:2])
    assert (p > threshold).any() and ((p - threshold).abs() > 1e-4).all()
    assert torch.autograd.gradcheck(lambda *x: masked_softmax_attention(*x, threshold)[0], inputs)


def test_masked_entries_have_gradients():
    """Of the logits, -p D: without them the row's gradients would not sum to zero."""
    logits = torch.tensor([[[[2.0, 1.0, 0.0, -1.0]]]], dtype=torch.float64)
    q, k = torch.ones(1, 1, 1, 1, dtype=torch.float64), logits.mT.clone().requires_grad_()
    v = torch.tensor([3.0, 1.0, 5.0, 7.0], dtype=torch.float64).reshape(1, 1, 4, 1)
    p = logits.softmax(-1).flatten()
    assert (p > 0.2).tolist() == [True, True, False, False]
    masked_softmax_attention(q, k, v, 0.2)[0].sum().backward()
    of_kept = p * torch.tensor([3.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(k.grad.flatten(), of_kept - p * of_kept.sum())


def test_second_derivatives_are_refused():
    inputs = random_qkv(5, 5)
    y, _ = masked_softmax_attention(*inputs, 0.1)
    first = torch.autograd.grad(y.sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match='masked_softmax_backward.*no autograd formula'):
        torch.autograd.grad(first[0].sum(), inputs)


@pytest.mark.parametrize('threshold', [0.05, torch.tensor(0.05), torch.tensor(0.05).double()])
def test_threshold_is_a_number_or_a_tensor(threshold):
    inputs = random_qkv(12, 12)
    expected, _ = masked_softmax_attention(*inputs, 0.05)
    torch.testing.assert_close(masked_softmax_attention(*inputs, threshold)[0], expected)


def test_threshold_0_is_full_softmax():
    inputs = random_qkv(4, 12)
    y, nonzeros = masked_softmax_attention(*inputs, 0.0)
    expected = F.scaled_dot_product_attention(*inputs)
    assert nonzeros == 1
    both = (outcome(each, inputs) for each in (y, expected))
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize('num_keys', [1, 12])
def test_threshold_1_is_exactly_zero(num_keys):
    """Also with one key, whose probability is 1."""
    inputs = random_qkv(4, num_keys)
    y, nonzeros = masked_softmax_attention(*inputs, 1.0)
    assert (y == 0).all() and nonzeros == 0
    assert all((g == 0).all() for g in torch.autograd.grad(y.sum(), inputs))


def test_threshold_itself_is_masked_and_nothing_is_renormalised():
    q, k = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 4, 4)
    v = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 4, 1)
    assert masked_softmax_attention(q, k, v, 0.25)[0].item() == 0
    assert masked_softmax_attention(q, k, v, 0.249)[0].item() == 15 / 4
    k[..., 0, 0], q[..., 0] = 8.0, 1.0
    kept = torch.tensor([4.0, 0, 0, 0]).softmax(-1)[0].item()
    assert masked_softmax_attention(q, k, v, 0.25)[0].item() == pytest.approx(kept, rel=1e-6)


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures('small_blocks')
def test_low_precision(dtype, autocast):
    """Inputs and results are rounded, what is between them is not."""
    inputs = random_qkv(40, 40, dtype=dtype)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    assert decided_rows(softmax_probabilities(*wide[:2]), 0.05).all()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        y, _ = masked_softmax_attention(*inputs, 0.05)
        ours = [y, *torch.autograd.grad(y.sum(), inputs)]
    y = masked_softmax_attention_naive(*wide, 0.05)
    tolerance = torch.finfo(dtype).eps
    for x, expected in zip(ours, [y, *torch.autograd.grad(y.sum(), wide)], strict=True):
        assert x.dtype == dtype
        torch.testing.assert_close(x.double(), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.usefixtures('small_blocks')
def test_blocks_cover_every_query_of_every_head_once(computed):
    masked_softmax_attention(*random_qkv(33, 33), 0.0)
    assert computed == [(1, 15, 33), (1, 15, 33), (1, 3, 33)] * 6
    computed.clear()
    masked_softmax_attention(*random_qkv(10, 12), 0.0)
    assert computed == [(4, 10, 12), (2, 10, 12)]


@pytest.mark.usefixtures('small_blocks')
def test_blocks_that_keep_nothing_are_skipped(computed):
    """Nothing of them is computed where lengths alone say so, and nothing goes backward."""
    q, k, v = random_qkv(33, 33)
    sharp = torch.full((1, 1, 33, 1), 0.01, dtype=torch.float64)
    sharp[:, :, 20] = 10.0  # in the second block of three
    y, nonzeros = masked_softmax_attention(q * sharp, k, v, 0.4)
    assert computed == [(1, 15, 33)] * 6
    kept_in = [(rows != 0).any().item() for head in y.flatten(0, 1) for rows in head.split(15)]
    assert sum(kept_in) == 6 and all(kept_in[1::3]) and nonzeros > 0
    computed.clear()
    y.sum().backward()
    assert computed == [(1, 15, 33)] * 6
    assert q.grad[:, :, 20].abs().min() > 0 and (q.grad[:, :, :20] == 0).all()


@pytest.mark.usefixtures('small_blocks')
def test_blocks_that_turn_out_to_keep_nothing_are_not_differentiated(computed):
    """Lengths alone do not say so here."""
    inputs = random_qkv(33, 33)
    y, nonzeros = masked_softmax_attention(*inputs, 0.8)
    assert computed and nonzeros == 0 and (y == 0).all()
    computed.clear()
    assert all((g == 0).all() for g in torch.autograd.grad(y.sum(), inputs))
    assert not computed


@pytest.mark.parametrize('offset', [0.0, 30.0])
@pytest.mark.parametrize('sharpness', [0.1, 1.0, 10.0])
def test_bound_is_never_below_a_probability(sharpness, offset):
    q, k, _ = (x.detach().float().flatten(0, 1) for x in random_qkv(50, 20, sharpness=sharpness))
    k = k + offset
    bound = masked_softmax._bound_of_probabilities(q, k)
    largest = softmax_probabilities(q, k).amax(-1)
    assert (bound >= largest * (1 - 1e-5)).all()
    if sharpness < 1:
        assert (bound < 2 * largest).all()


def test_operators_tell_compilers_the_truth():
    """Shapes, dtypes and strides that they announce, and that they write into no input."""
    q, k, v = random_qkv(6, 8, 4, 5, torch.float32)
    threshold = torch.tensor(0.15, dtype=torch.float64)
    y, bound, _ = (x.detach() for x in masked_softmax._forward(q, k, v, threshold))
    inputs = [x.detach() for x in (q, k, v)]
    checks = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    for operator, arguments in (
        (masked_softmax._forward, (q, k, v, threshold)),
        (masked_softmax._backward, (y, *inputs, threshold, bound)),
    ):
        assert len(torch.library.opcheck(operator, arguments, test_utils=checks)) == 3


def test_memory_at_6400_tokens():
    """Both passes, without a block that is skipped, against the forward pass of the other form."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, 1, 6400, 32, generator=generator).requires_grad_() for _ in range(3)]

    def both_passes():
        y, _ = masked_softmax_attention(*inputs, 0.002)
        assert all(rows.any() for rows in y[0, 0].split(masked_softmax.CPU_BLOCK // 6400))
        torch.autograd.grad(y.sum(), inputs)

    ours = peak_memory(both_passes, 'cpu').peak
    naive = peak_memory(partial(masked_softmax_attention_naive, *inputs, 0.002), 'cpu').peak
    assert ours < naive / 20
