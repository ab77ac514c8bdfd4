"""Centred angular attention: what takes the place of a trained softmax, in O(N).

Each query attends by softmax to a fixed number of things: the tokens that are not on the grid
(class token, registers), and the cells that the grid is divided into, each with the mean of its
keys and values and the weight of all its tokens. The linear term of the angular kernel, c / pi,
adds what depends on single tokens; a local term, what depends on the place. The kernel sees keys
less their mean: softmax does not notice a vector that is added to all keys, and the keys of a
trained model share a large one. Extra tokens are few, and their queries keep softmax over all.

The form is our own, of known parts: the kernel is Castling-ViT's (arXiv 2211.10526), attention to a
fixed number of pooled cells PVTv2's (arXiv 2106.13797). Tensors are ``(B, H, N, D)``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from castling_det.ops.linear_angular import unit_norm


def centred_angular_attention(
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
    """Attention to extra tokens, cells and centred keys, in O(N).

    For a query i on the grid of n tokens with mean key k̄, divided into M cells c::

        p_i = softmax(q_i·k_e / sqrt(Dk) of the extra tokens,
                      q_i·k_c / sqrt(Dk) + log(n / M) + mass of the cells)
        fine_i = angular / n * sum_j cos(q_i, k_j - k̄) v_j + local_i
        y_i = sum_e p_ie v_e + coarse * sum_c p_ic v_c + sum_c p_ic * fine_i

    An extra query attends to all tokens by softmax.

    Args:
        q (Tensor): Queries ``(B, H, E + Nq, Dk)``, the E extra ones first.
        k (Tensor): Keys ``(B, H, E + n, Dk)``.
        v (Tensor): Values ``(B, H, E + n, Dv)``.
        cell_keys, cell_values (Tensor): Means over cells, ``(B, H, M, Dk)`` and ``(B, H, M, Dv)``.
        local (Tensor): ``(B, H, Nq, Dv)``; its length tells Nq, and so E.
        coarse, angular (Tensor): Gains of their terms, ``(H,)``.
        mass (Tensor): ``(H,)``. How much more than a cell's mean key its keys weigh, as a
            logarithm: the mean of exponentials is above the exponential of the mean.

    Returns:
        Tensor: ``(B, H, E + Nq, Dv)`` in the dtype of ``v``.
    """
    num_extra = q.shape[-2] - local.shape[-2]
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(v.dtype, torch.float32)
        dtype, q, k, v, local = v.dtype, q.to(wide), k.to(wide), v.to(wide), local.to(wide)
        coarse, angular, mass = (gain.to(wide)[:, None, None] for gain in (coarse, angular, mass))
        of_grid, keys, values = (x[:, :, num_extra:] for x in (q, k, v))
        extra, extra_keys, extra_values = (x[:, :, :num_extra] for x in (q, k, v))
        n = keys.shape[-2]
        centred = unit_norm(keys - keys.mean(dim=-2, keepdim=True))
        fine = unit_norm(of_grid) @ (centred.transpose(-2, -1) @ values * (angular / n)) + local

        num_cells = cell_keys.shape[-2]
        share = torch.full((), n, dtype=wide, device=q.device) / num_cells  # may be open in a graph
        weight = (mass + share.log()).expand(-1, -1, num_cells)
        seen = torch.cat((extra_keys, cell_keys.to(wide)), dim=-2).transpose(-2, -1)
        logits = of_grid @ seen * q.shape[-1] ** -0.5 + F.pad(weight, (num_extra, 0))
        p = logits.softmax(dim=-1)
        told = torch.cat((extra_values, coarse * cell_values.to(wide)), dim=-2)
        y = p @ told + p[..., num_extra:].sum(dim=-1, keepdim=True) * fine
        if num_extra:
            y = torch.cat((F.scaled_dot_product_attention(extra, k, v), y), dim=-2)
        return y.to(dtype)
