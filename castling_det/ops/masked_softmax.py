"""Masked softmax attention, the auxiliary branch of linear-angular attention, in O(N) memory.

It goes over blocks of queries, whose probabilities are computed in the forward pass and once more
in the backward pass; blocks that keep none are left out of both. The passes are operators of torch,
so that compilers, and counters of operations, see one node each. Every tensor is ``(B, H, N, D)``;
inside, the heads of all images are one dimension, and numbers are float32 or wider.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# Probabilities in a block, of which up to three matrices are held at a time: on a CPU about what a
# core's cache has room for, on an accelerator enough to fill it.
CPU_BLOCK, ACCELERATOR_BLOCK = 2**18, 2**23


def masked_softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, threshold: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Softmax attention without the probabilities at or under ``threshold``.

    With P = softmax(q kᵀ / sqrt(Dk)) and M = P > threshold it is y = (M ∘ P) v, and what is kept is
    not renormalised. M is constant to the gradient and P is not: masked logits too have a part in
    the sum that kept probabilities are divided by. With G = M ∘ P ∘ (dy vᵀ), the gradient of the
    logits is G - P ∘ rowsum(G), zero only in rows that keep nothing, and dv = (M ∘ P)ᵀ dy. There is
    no gradient of ``threshold``, and there are no second derivatives.

    Args:
        q (Tensor): Queries ``(B, H, Nq, Dk)``, not normalised.
        k (Tensor): Keys ``(B, H, Nk, Dk)``, not normalised.
        v (Tensor): Values ``(B, H, Nk, Dv)``.
        threshold (float | Tensor): 0 is full softmax attention, 1 gives exactly zero.

    Returns:
        tuple[Tensor, Tensor]: y, ``(B, H, Nq, Dv)`` in the dtype of ``v``; and the nonzeros, the
        share of the probabilities above the threshold, a float32 scalar without gradient.
    """
    y, _, num_kept = _forward(q, k, v, torch.as_tensor(threshold, dtype=torch.float64))
    return y, num_kept / (math.prod(q.shape[:-1]) * k.shape[-2])


def softmax_probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Probabilities of softmax attention, ``(..., Nq, Nk)``, in float32 or wider."""
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        scaled = q.to(wide) * q.shape[-1] ** -0.5
        return (scaled @ k.to(wide).transpose(-2, -1)).softmax(dim=-1)


@torch.library.custom_op('castling_det::masked_softmax', mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y; an upper bound of each row's probabilities, ``(B, H, Nq)``; how many are kept in all."""
    t, dtype, batch_heads = threshold.item(), v.dtype, q.shape[:2]
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = _wide_heads(q, k, v)
        y = q.new_zeros(*q.shape[:2], v.shape[2])
        bound = _bound_of_probabilities(q, k)
        num_kept = torch.zeros((), dtype=torch.int64, device=q.device)
        for heads, rows in _blocks(q, k):
            if not (bound[heads, rows] > t).any():
                continue
            p = softmax_probabilities(q[heads, rows], k[heads])
            bound[heads, rows] = p.amax(dim=-1)
            if (bound[heads, rows] > t).any():
                p = F.threshold(p, t, 0.0)
                num_kept += p.count_nonzero()
                y[heads, rows] = p @ v[heads]
    return y.unflatten(0, batch_heads).to(dtype), bound.unflatten(0, batch_heads), num_kept


@torch.library.custom_op('castling_det::masked_softmax_backward', mutates_args=())
def _backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, threshold: Tensor, bound: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, by the formulas of :func:`masked_softmax_attention`."""
    t, inputs, scale = threshold.item(), (q, k, v), q.shape[-1] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, dy = _wide_heads(q, k, v, dy)
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for heads, rows in _blocks(q, k):
            if not (bound.flatten(0, 1)[heads, rows] > t).any():
                continue
            p = softmax_probabilities(q[heads, rows], k[heads])
            kept = F.threshold(p, t, 0.0)
            dv[heads].baddbmm_(kept.mT, dy[heads, rows])
            g = (dy[heads, rows] @ v[heads].mT).mul_(kept)
            of_logits = g.addcmul_(p, g.sum(dim=-1, keepdim=True), value=-1)
            dq[heads, rows] = of_logits @ k[heads]
            dk[heads].baddbmm_(of_logits.mT, q[heads, rows])
    gradients = (dq.mul_(scale), dk.mul_(scale), dv)
    return tuple(
        gradient.unflatten(0, x.shape[:2]).to(x.dtype)
        for gradient, x in zip(gradients, inputs, strict=True)
    )


def _wide_heads(*tensors: Tensor) -> list[Tensor]:
    """``(B, H, N, D)`` to ``(B H, N, D)``, all as wide as the first, and float32 at least."""
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    return [x.flatten(0, 1).to(wide) for x in tensors]


def _bound_of_probabilities(q: Tensor, k: Tensor) -> Tensor:
    """What no probability of a row exceeds, ``(B H, Nq)``, in O(N).

    With the logits l of a row, the largest is 1 / sum exp(l - max l), which by Jensen's inequality
    is at most exp(max l - mean l) / Nk, and max l - mean l = max q·(k - mean k) / sqrt(Dk) is at
    most the product of lengths.
    """
    spread = (k - k.mean(dim=1, keepdim=True)).norm(dim=-1).amax(dim=1, keepdim=True)
    return (q.norm(dim=-1) * spread * q.shape[-1] ** -0.5).exp() / k.shape[1]


def _blocks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Heads and queries of each block: several heads with all their queries, or a part of one's."""
    size = CPU_BLOCK if q.device.type == 'cpu' else ACCELERATOR_BLOCK
    num_heads, num_queries, num_keys = *q.shape[:2], k.shape[1]
    heads, rows = max(1, size // (num_queries * num_keys)), max(1, size // num_keys)
    for head in range(0, num_heads, heads):
        for row in range(0, num_queries, rows):
            yield slice(head, head + heads), slice(row, row + rows)


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    y = v.new_empty(*q.shape[:-1], v.shape[-1])
    return y, q.new_empty(q.shape[:-1], dtype=wide), q.new_empty((), dtype=torch.int64)


@_backward.register_fake
def _(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, threshold: Tensor, bound: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _differentiate(ctx, dy: Tensor, *_) -> tuple[Tensor, Tensor, Tensor, None]:
    return *_backward(dy, *ctx.saved_tensors), None


_forward.register_autograd(_differentiate, setup_context=_save)
