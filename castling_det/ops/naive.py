"""The slow, obvious forms of our linear attentions, and the kernel that they approximate."""

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


def centred_angular_attention_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cell_keys: Tensor,
    cell_values: Tensor,
    local: Tensor,
    coarse: Tensor,
    angular: Tensor,
    mass: Tensor,
) -> Tensor:
    """The specification: all exponentials, and the (Nq, n) matrix of cosines.

    Arguments and result as for :func:`centred_angular_attention`.
    """
    extra, num_cells = q.shape[-2] - local.shape[-2], cell_keys.shape[-2]
    n = k.shape[-2] - extra
    coarse, angular, mass = (gain[:, None, None] for gain in (coarse, angular, mass))
    exponentials = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).exp()
    exact = exponentials / exponentials.sum(dim=-1, keepdim=True) @ v

    q, keys, values = (x[:, :, extra:] for x in (q, k, v))
    of_cells = (q @ cell_keys.transpose(-2, -1) / q.shape[-1] ** 0.5).exp()
    of_cells = of_cells * mass.exp() * n / num_cells
    of_extra = exponentials[:, :, extra:, :extra]
    total = of_cells.sum(dim=-1, keepdim=True) + of_extra.sum(dim=-1, keepdim=True)
    cosines = unit_norm(q) @ unit_norm(keys - keys.mean(dim=-2, keepdim=True)).transpose(-2, -1)
    y = of_extra / total @ v[:, :, :extra] + coarse * (of_cells / total) @ cell_values
    y = y + of_cells.sum(dim=-1, keepdim=True) / total * (angular / n * cosines @ values + local)
    return torch.cat((exact[:, :, :extra], y), dim=-2)


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
