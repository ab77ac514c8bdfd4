"""Linear-angular attention (Castling-ViT, arXiv 2211.10526).

The angular kernel of two vectors at cosine c is 1 - arccos(c) / pi = 1/2 + c / pi + odd powers of
c. The first two terms need only kᵀ v, which costs O(N); training adds what is missing by a softmax
attention whose small entries are masked (masked_softmax.py). Every tensor is ``(B, H, N, D)``:
batch, heads, tokens, width of a head. Sums and norms are in float32 or wider, whatever the input.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6  # length under which a vector has no direction


def unit_norm(x: Tensor) -> Tensor:
    """Scale the last dimension to length 1; where its length is at most ``EPS``, to zero.

    Above ``EPS`` it is exactly x / ||x||; at or under it the division by infinity makes both value
    and gradient exactly zero, where a clamped denominator would have the gradient g / EPS.

    Args:
        x (Tensor): ``(..., D)``, any floating dtype.

    Returns:
        Tensor: Shape and dtype of ``x``.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x / length(x.to(wide))).to(x.dtype)


def length(x: Tensor, otherwise: float = torch.inf) -> Tensor:
    """Of the last dimension, ``(..., 1)``; where it is at most ``EPS``, ``otherwise``."""
    return F.threshold(torch.linalg.vector_norm(x, dim=-1, keepdim=True), EPS, otherwise)


def linear_angular_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    own: Tensor | None = None,
    aux: Tensor | None = None,
    local: Tensor | None = None,
) -> Tensor:
    """Attention with the linear terms of the angular kernel, in O(N).

    unit_norm(own / 2 + q̂ (k̂ᵀ v) / pi + aux) + local, with q̂, k̂ = unit_norm(q), unit_norm(k). As in
    the published code, the kernel's 1/2 weighs a query's own value, not the sum of all values, and
    sums grow with the number of keys.

    The output norm takes any scale away, so all is computed pi ||q|| times as large, with q as it
    is: that spares passes over memory, which cost more than the arithmetic.

    Args:
        q (Tensor): Queries ``(B, H, Nq, Dk)``.
        k (Tensor): Keys ``(B, H, Nk, Dk)``.
        v (Tensor): Values ``(B, H, Nk, Dv)``.
        own (Tensor, optional): The value at each query's own place, ``(B, H, Nq, Dv)``. Defaults to
            ``v``, which needs Nq = Nk.
        aux (Tensor, optional): Output of the auxiliary branch, ``(B, H, Nq, Dv)``, added before the
            output norm.
        local (Tensor, optional): Output of the convolution, ``(B, H, Nq, Dv)``, added after it.

    Returns:
        Tensor: ``(B, H, Nq, Dv)`` in the dtype of ``v``.
    """
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(v.dtype, torch.float32)
        dtype, q, k, v = v.dtype, q.to(wide), k.to(wide), v.to(wide)
        own = v if own is None else own.to(wide)
        sums = k.transpose(-2, -1) @ (v / length(k))
        scale = math.pi * length(q, otherwise=1 / EPS)
        if aux is None:
            y = (q @ sums).addcmul(own, scale / 2)
        else:
            y = (q @ sums).addcmul(own / 2 + aux.to(wide), scale)
        of_y = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        of_y = torch.where(of_y > EPS * scale, of_y, torch.inf)
        y = y / of_y if local is None else torch.addcdiv(local.to(wide), y, of_y)
        return y.to(dtype)
