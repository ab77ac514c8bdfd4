"""The slow, obvious form of linear-angular attention, and the kernel that it approximates."""

import math

import torch
from torch import Tensor

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
