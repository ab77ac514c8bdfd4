"""The biases that LeViT's softmax attention keeps between forwards: never stale."""

import pickle
import weakref
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from torch import nn

from castling_det.models.castling_levit import LogitBias


def logit_bias(grid, stride):
    bias = LogitBias(3, (grid, grid), stride)
    nn.init.normal_(bias.table, generator=torch.Generator().manual_seed(0))
    return bias


@torch.no_grad()
def test_logit_bias_is_kept_in_eval_for_one_grid_at_a_time():
    bias = logit_bias(5, 1).eval()
    first = bias((5, 5))
    assert bias((5, 5)) is first
    other = bias((3, 9))
    assert other.shape == (3, 27, 27) and bias((3, 9)) is other
    again = bias((5, 5))
    assert again is not first and torch.equal(again, first)
    with torch.inference_mode():
        assert bias((2, 5)) is bias((2, 5))
    assert not bias((2, 5)).is_inference()  # autograd would not take it
    assert list(bias.state_dict()) == ['table'] and not list(bias.buffers())


def test_logit_bias_is_computed_anew_where_gradients_flow():
    bias = logit_bias(5, 1)
    with torch.no_grad():
        bias.eval()((5, 5))
    for mode in (True, False):
        bias.train(mode)((5, 5)).sum().backward()
        assert bias.table.grad.abs().sum() > 0
        bias.table.grad = None
    with torch.no_grad():
        bias.train()
        assert bias((5, 5)) is not bias((5, 5))
    frozen = logit_bias(5, 1).eval().requires_grad_(False)
    assert frozen((5, 5)) is frozen((5, 5)) and not frozen((5, 5)).requires_grad


def step(bias, fused=False):
    """In eval mode, and with a forward without gradients between the others."""
    optimizer = torch.optim.AdamW(bias.parameters(), lr=1.0, fused=fused)
    with torch.enable_grad():
        loss = bias((6, 6)).square().sum()
    bias((6, 6))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def fused_step(bias):
    step(bias, fused=True)


def assign(bias):
    bias.load_state_dict({'table': bias.table.detach() - 1}, assign=True)


def replace(bias):
    """By one that has been changed as often."""
    table = nn.Parameter(bias.table.detach() - 1)
    while table._version < bias.table._version:
        table.add_(0)
    assert table._version == bias.table._version
    bias.table = table


def write_data_in_training(bias):
    bias.train()
    bias.table.data.sub_(1)
    bias.eval()


@pytest.mark.parametrize(
    'change',
    [
        step,
        fused_step,
        lambda bias: bias.load_state_dict({'table': bias.table.detach() - 1}),
        assign,
        replace,
        write_data_in_training,
        lambda bias: nn.init.zeros_(bias.table),
        lambda bias: bias.half().float(),
        lambda bias: bias.double(),
    ],
)
def test_logit_bias_follows_its_table(change):
    """Nothing of the old table is left, whatever changed it, and whatever the mode was."""
    bias = logit_bias(5, 2).eval()
    with torch.no_grad():
        before = bias((6, 6))
        change(bias)
        after = bias((6, 6))
        assert not torch.equal(before, after)
        assert after.dtype == bias.table.dtype
        assert torch.equal(after, bias.train()((6, 6)))


@torch.no_grad()
def test_copies_of_a_logit_bias_keep_nothing():
    bias = logit_bias(5, 1).eval()
    before = bias((5, 5))
    copy, pickled = deepcopy(bias), pickle.loads(pickle.dumps(bias))
    for other in (copy, pickled):
        other.table.data.sub_(1)  # no version counter sees it
        torch.testing.assert_close(other((5, 5)), before - 1)
    assert bias((5, 5)) is before
    kept = bias((20, 20))
    assert len(pickle.dumps(bias)) < kept.nbytes / 100


@torch.no_grad()
def test_a_moved_logit_bias_frees_what_it_kept():
    bias = logit_bias(5, 1).eval()
    kept = weakref.ref(bias((5, 5)))
    assert kept() is not None
    bias.to(torch.float64)
    assert kept() is None and bias((5, 5)) is bias((5, 5))


@torch.no_grad()
def test_logit_bias_under_averaged_weights():
    """EMAHook swaps through ``.data``, which nothing sees; validation calls ``eval()`` after it."""
    model = nn.Sequential(logit_bias(5, 1))
    runner = SimpleNamespace(model=model, iter=0, epoch=0)
    hook = EMAHook(momentum=0.5)
    hook.before_run(runner)
    hook.after_train_iter(runner, 0)  # the first one copies
    own = model.eval()((5, 5))
    model[0].table.sub_(1)
    hook.after_train_iter(runner, 0)
    torch.testing.assert_close(model((5, 5)), own - 1)
    hook.before_val_epoch(runner)
    torch.testing.assert_close(model.eval()((5, 5)), own - 0.5)
    hook.after_val_epoch(runner)
    torch.testing.assert_close(model.train()((5, 5)), own - 1)
    torch.testing.assert_close(model.eval()((5, 5)), own - 1)


class OfAnImage(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = logit_bias(5, 1)

    def forward(self, x):
        return self.bias(x.shape[-2:]) + x.mean()


def export(model, x):
    return torch.export.export(model, (x,)).module()


@torch.no_grad()
@pytest.mark.parametrize('record', [torch.jit.trace, export])
def test_recorded_logit_bias_is_no_constant(record):
    model, x = OfAnImage().eval(), torch.zeros(5, 5)
    before = model(x)
    recorded = record(model, x)
    torch.testing.assert_close(recorded(x), before)
    (table,) = recorded.parameters()
    table.sub_(1)
    torch.testing.assert_close(recorded(x), before - 1)
