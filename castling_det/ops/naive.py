"""The slow, obvious forms of our attentions, and the kernel that linear ones approximate."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from castling_det.ops.focal import WINDOW
from castling_det.ops.linear_angular import unit_norm


def linear_angular_attention_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    own_index: Tensor | None = None,
    threshold: float = 1.0,
) -> Tensor:
    """The specification: builds the (Nq, Nk) attention matrix A and returns unit_norm(A v).

    A = I / 2 (rows selected by ``own_index``) + q̂ k̂ᵀ / pi + masked softmax.

    Args:
        q, k, v: As for :func:`linear_angular_attention`.
        own_index (Tensor, optional): ``(Nq,)``, the key at each query's own place. Defaults to
            0 ... Nq - 1.
        threshold (float): Of the auxiliary branch. Defaults to 1, which masks all of it.

    Returns:
        Tensor: ``(B, H, Nq, Dv)``.
    """
    num_queries, num_keys = q.shape[-2], k.shape[-2]
    kernel = unit_norm(q) @ unit_norm(k).transpose(-2, -1) / math.pi
    if own_index is None:
        own_index = torch.arange(num_queries, device=q.device)
    half = 0.5 * torch.eye(num_keys, dtype=q.dtype, device=q.device)[own_index]
    p = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return unit_norm((half + kernel + p * (p > threshold)) @ v)


def masked_softmax_attention_naive(
    q: Tensor, k: Tensor, v: Tensor, threshold: float | Tensor
) -> Tensor:
    """The specification, with (Nq, Nk) matrices; autograd differentiates it.

    Arguments and result as for :func:`masked_softmax_attention`, without the nonzeros.
    """
    p = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (p * (p > threshold)) @ v


def focal_attention_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_hw: tuple[int, int],
    kv_hw: tuple[int, int],
    cells: int,
    num_extra_tokens: int = 0,
) -> Tensor:
    """The specification: query by query, the keys that it sees in a list.

    Arguments and result as for :func:`focal_attention`.
    """
    extra = list(range(num_extra_tokens))
    windows = [math.ceil(side / WINDOW) for side in kv_hw]
    sides = [math.ceil(side / number) for side, number in zip(kv_hw, windows, strict=True)]
    q_sides = [math.ceil(side / number) for side, number in zip(q_hw, windows, strict=True)]
    cell_sides = [math.ceil(side / cells) for side in kv_hw]

    def parts(hw: tuple[int, int], of: list[int]) -> list[tuple[int, int]]:
        """Of each token of a grid, the row and column of the window or cell that has it."""
        return [(y // of[0], x // of[1]) for y in range(hw[0]) for x in range(hw[1])]

    window_of, cell_of = parts(kv_hw, sides), parts(kv_hw, cell_sides)
    outputs = [F.scaled_dot_product_attention(q[:, :, extra], k, v)]
    for i, own in enumerate(parts(q_hw, q_sides)):
        near = [num_extra_tokens + j for j, other in enumerate(window_of) if other == own]
        keys, values = [k[:, :, extra + near]], [v[:, :, extra + near]]
        weights = [k.new_zeros(len(extra + near))]
        for cell in sorted(set(cell_of)):
            members = [j for j, other in enumerate(cell_of) if other == cell]
            outside = [j for j in members if window_of[j] != own]
            if outside:
                members = [num_extra_tokens + j for j in members]
                keys.append(k[:, :, members].mean(dim=2, keepdim=True))
                values.append(v[:, :, members].mean(dim=2, keepdim=True))
                weights.append(k.new_tensor([math.log(len(outside))]))
        query = q[:, :, num_extra_tokens + i, None]
        logits = query @ torch.cat(keys, dim=2).mT / q.shape[-1] ** 0.5
        p = (logits + torch.cat(weights)).softmax(dim=-1)
        outputs.append(p @ torch.cat(values, dim=2))
    return torch.cat(outputs, dim=2)


def angular_kernel(cosine: Tensor) -> Tensor:
    """The exact angular kernel 1 - arccos(c) / pi, between 0 and 1."""
    return 1 - torch.arccos(cosine) / math.pi


def angular_kernel_expansion(cosine: Tensor, num_terms: int = 0) -> Tensor:
    """1/2 + c / pi and ``num_terms`` more terms; without more it is what attention keeps."""
    kernel = 0.5 + cosine / math.pi
    for n in range(1, num_terms + 1):
        weight = math.comb(2 * n, n) / (4**n * (2 * n + 1))
        kernel = kernel + weight * cosine ** (2 * n + 1) / math.pi
    return kernel
