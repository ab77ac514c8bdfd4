"""Linear-angular attention (Castling-ViT, arXiv 2211.10526).

The angular kernel of two vectors at cosine c is 1 - arccos(c) / pi = 1/2 + c / pi + odd powers of
c. The first two terms need only kᵀ v, which costs O(N); training adds what is missing by a softmax
attention whose small entries are masked (masked_softmax.py). Every tensor is ``(B, H, N, D)``:
batch, heads, tokens, width of a head. Sums and norms are in float32 or wider, whatever the input.
"""

import math

import torch
from torch import Tensor


def unit_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale the last dimension to length 1; where its length is at most ``eps``, to zero.

    Above ``eps`` it is exactly x / ||x||; at or under it the division by infinity makes both value
    and gradient exactly zero, where a clamped denominator would have the gradient g / eps.

    Args:
        x (Tensor): ``(..., D)``, any floating dtype.
        eps (float): Length under which a vector has no direction. Defaults to 1e-6.

    Returns:
        Tensor: Shape and dtype of ``x``.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    return (x / torch.where(length > eps, length, torch.inf)).to(x.dtype)


def linear_angular_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    own: Tensor | None = None,
    aux: Tensor | None = None,
) -> Tensor:
    """Attention with the linear terms of the angular kernel, in O(N).

    y = unit_norm(own / 2 + q̂ (k̂ᵀ v) / pi + aux), with q̂, k̂ = unit_norm(q), unit_norm(k). As in the
    published code, the kernel's 1/2 weighs a query's own value, not the sum of all values, and sums
    grow with the number of keys.

    Args:
        q (Tensor): Queries ``(B, H, Nq, Dk)``.
        k (Tensor): Keys ``(B, H, Nk, Dk)``.
        v (Tensor): Values ``(B, H, Nk, Dv)``.
        own (Tensor, optional): The value at each query's own place, ``(B, H, Nq, Dv)``. Defaults to
            ``v``, which needs Nq = Nk.
        aux (Tensor, optional): Output of the auxiliary branch, ``(B, H, Nq, Dv)``, added before the
            output norm.

    Returns:
        Tensor: ``(B, H, Nq, Dv)`` in the dtype of ``v``.
    """
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(v.dtype, torch.float32)
        dtype, q, k, v = v.dtype, q.to(wide), k.to(wide), v.to(wide)
        own = v if own is None else own.to(wide)
        sums = unit_norm(k).transpose(-2, -1) @ v / math.pi  # divided here, where it is small
        y = torch.add(unit_norm(q) @ sums, own, alpha=0.5)
        if aux is not None:
            y = y + aux.to(wide)
        return unit_norm(y).to(dtype)
