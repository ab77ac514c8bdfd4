"""Focal attention: what takes the place of a trained softmax, in O(N).

Each query attends by softmax to the tokens of its own window, to the tokens that are not on the
grid (class token, registers), and to the rest of the grid by cells, each with the mean of its keys
and values and the weight of its tokens. A window has a fixed size at most and there is a fixed
number of cells at most, so a query sees no more of a large image than of a small one. Extra tokens
are few, and their queries keep softmax over all.

Fine near the query and coarse far from it is Focal Transformer's idea (arXiv 2107.00641), whose
queries see a part of the image; the kernel of Castling-ViT is not in it. Tensors are
``(B, H, N, D)``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]
WINDOW = 8  # longest side of a window, in keys


def focal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_hw: Grid,
    kv_hw: Grid,
    cells: int,
    num_extra_tokens: int = 0,
) -> Tensor:
    """Softmax over the window, the extra tokens and the cells of the rest, in O(N).

    For a query i of window W, extra tokens e and cells c that have n_c tokens outside W, with the
    means of their keys and values::

        y_i = softmax(q_i·k_j / sqrt(Dk) of j in W,
                      q_i·k_e / sqrt(Dk),
                      q_i·k_c / sqrt(Dk) + log n_c of the cells with n_c > 0) v

    Args:
        q (Tensor): Queries ``(B, H, E + Nq, Dk)``, the E extra ones first.
        k (Tensor): Keys ``(B, H, E + n, Dk)``.
        v (Tensor): Values ``(B, H, E + n, Dv)``.
        q_hw, kv_hw (tuple[int, int]): Height and width of both grids. A window is the same part of
            both.
        cells (int): Most cells along a side.
        num_extra_tokens (int): E. Defaults to 0.

    Returns:
        Tensor: ``(B, H, E + Nq, Dv)``.
    """
    (extra, queries), (extra_keys, keys), (extra_values, values) = (
        x.tensor_split((num_extra_tokens,), dim=2) for x in (q, k, v)
    )
    y = attend_on_grid(
        queries.unflatten(2, q_hw),
        keys.unflatten(2, kv_hw),
        values.unflatten(2, kv_hw),
        extra_keys,
        extra_values,
        cells,
    ).flatten(2, 3)
    if num_extra_tokens:
        y = torch.cat((F.scaled_dot_product_attention(extra, k, v), y), dim=2)
    return y


def attend_on_grid(
    q: Tensor, k: Tensor, v: Tensor, extra_keys: Tensor, extra_values: Tensor, cells: int
) -> Tensor:
    """The queries on the grid alone, as maps.

    Args:
        q, k, v (Tensor): ``(B, H, h, w, D)``.
        extra_keys, extra_values (Tensor): ``(B, H, E, D)``.
        cells (int): Most cells along a side.

    Returns:
        Tensor: ``(B, H, h, w, Dv)`` of the queries' grid.
    """
    q_hw, kv_hw = q.shape[2:4], k.shape[2:4]
    windows = window_grid(kv_hw)
    near, near_keys, near_values = (into_windows(x, windows) for x in (q, k, v))
    of_cells = [members(side, cells, like=k) for side in kv_hw]
    far_keys, far_values = (
        torch.cat((of_extra, cell_means(x, of_cells)), dim=2)[:, :, None]
        for of_extra, x in ((extra_keys, k), (extra_values, v))
    )  # (B, H, 1, E + M, D)
    padding = into_windows(torch.ones_like(k[:1, :1, :, :, :1]), windows)
    outside = tokens_outside(kv_hw, windows, of_cells)  # (W, M)
    weight = F.pad(outside, (extra_keys.shape[2], 0), value=1)
    bias = torch.cat((padding[0, 0, :, :, 0], weight), dim=1).log()  # -inf of what is not there

    def seen(of_window: Tensor, of_all: Tensor) -> Tensor:
        of_all = of_all.expand(-1, -1, of_window.shape[2], -1, -1)
        return torch.cat((of_window, of_all), dim=3).flatten(1, 2)

    y = F.scaled_dot_product_attention(
        near.flatten(1, 2),  # each window of each head is a head
        seen(near_keys, far_keys),
        seen(near_values, far_values),
        attn_mask=bias.repeat(q.shape[1], 1)[None, :, None].expand(-1, -1, near.shape[3], -1),
    )
    return out_of_windows(y.unflatten(1, near.shape[1:3]), q_hw, windows)


def rounded_up(number: int, divisor: int) -> int:
    """The quotient; of positive numbers, as ONNX divides negative ones towards zero."""
    return (number + divisor - 1) // divisor


def window_grid(kv_hw: Grid) -> Grid:
    """How many windows there are down and across."""
    return rounded_up(kv_hw[0], WINDOW), rounded_up(kv_hw[1], WINDOW)


def into_windows(x: Tensor, windows: Grid) -> Tensor:
    """``(B, H, h, w, D)`` to ``(B, H, W, n_w, D)``, padded with zeros below and to the right."""
    hw = x.shape[2:4]
    sides = [rounded_up(side, number) for side, number in zip(hw, windows, strict=True)]
    down, right = (
        number * length - side for number, length, side in zip(windows, sides, hw, strict=True)
    )
    maps = F.pad(x, (0, 0, 0, right, 0, down))
    maps = maps.unflatten(3, (windows[1], sides[1])).unflatten(2, (windows[0], sides[0]))
    return maps.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def out_of_windows(x: Tensor, hw: Grid, windows: Grid) -> Tensor:
    """The inverse of :func:`into_windows`, for maps of height and width ``hw``."""
    sides = [rounded_up(side, number) for side, number in zip(hw, windows, strict=True)]
    maps = x.unflatten(3, sides).unflatten(2, windows).transpose(3, 4)
    maps = maps.flatten(4, 5).flatten(2, 3)
    return maps[:, :, : hw[0], : hw[1]]


def members(side: int, number: int, like: Tensor) -> Tensor:
    """Which places along a side each of its parts has, ``(number, side)``, 0 or 1.

    All parts have the same length, the last ones what is left, perhaps nothing.
    """
    place = torch.arange(side, device=like.device) // rounded_up(side, number)
    return (place == torch.arange(number, device=like.device)[:, None]).to(like.dtype)


def cell_means(x: Tensor, of_cells: list[Tensor]) -> Tensor:
    """``(B, H, h, w, D)`` to the mean of each cell, ``(B, H, M, D)``; zero of an empty one."""
    rows, columns = (each / each.sum(dim=1, keepdim=True).clamp(min=1) for each in of_cells)
    means = columns.expand(*x.shape[:3], -1, -1) @ x  # (B, H, h, cells, D)
    means = rows.expand(*x.shape[:2], -1, -1) @ means.flatten(3)
    return means.unflatten(3, (len(columns), -1)).flatten(2, 3)


def tokens_outside(kv_hw: Grid, windows: Grid, of_cells: list[Tensor]) -> Tensor:
    """How many tokens each cell has outside each window, ``(W, M)``."""
    (down, across) = (
        (members(side, number, like=each)[:, None] * each).sum(dim=2)  # (windows, cells)
        for side, number, each in zip(kv_hw, windows, of_cells, strict=True)
    )
    height, width = (each.sum(dim=1) for each in of_cells)
    inside = down[:, None, :, None] * across[:, None]  # (down, across) of windows, and of cells
    return (height[:, None] * width - inside).flatten(2).flatten(0, 1)
