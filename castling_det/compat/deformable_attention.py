"""Multi-scale deformable attention as weighted sums of rows of a table, forward and backward.

mmcv's own form without compiled ops keeps every bilinear sample, ``D`` numbers each, and passes
over them several times. Here the pixels are a table with a row for each head, samples are never
written, and the backward pass is a sum of rows as well.
"""

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

_BORDER = 2

warnings.filterwarnings('ignore', 'Sparse CSR tensor support is in beta state')


def deformable_attention(
    value: Tensor, spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """A weighted sum of bilinear samples of all levels.

    It has the arguments of mmcv's ``multi_scale_deformable_attn_pytorch`` and its values and
    gradients, on a CPU; elsewhere it is mmcv's, as no GPU has run this one. float16 and bfloat16
    are computed in float32.

    Args:
        value (Tensor): (B, S, M, D), the pixels of all levels one after the other; M heads.
        spatial_shapes (Tensor): (L, 2) height and width of each level.
        sampling_locations (Tensor): (B, Q, M, L, P, 2) x, y, where 0 and 1 are the map's borders;
            beyond them the map is 0.
        attention_weights (Tensor): (B, Q, M, L, P).

    Returns:
        Tensor: (B, Q, M * D), of the dtype of ``value``.
    """
    if value.device.type != 'cpu':
        mmcv_form = deformable_attention.__wrapped__
        return mmcv_form(value, spatial_shapes, sampling_locations, attention_weights)
    dtype = torch.promote_types(value.dtype, torch.float32)
    batch, queries, heads, _, _ = attention_weights.shape
    shapes = torch.as_tensor(spatial_shapes, dtype=torch.int32, device=value.device)
    grids = shapes.tolist()
    image = _one_image(value.to(dtype), grids)  # (B, H, W, M, D)
    height = sum(rows + _BORDER for rows, _ in grids) + _BORDER + 1
    width = max(columns for _, columns in grids) + _BORDER
    size = shapes.flip(1)[:, None]  # (L, 1, 2), width first

    at = sampling_locations.to(dtype) * size.to(dtype) + (_BORDER - 0.5)
    cell = at.detach().floor()
    right, down = (at - cell).unbind(-1)
    column, row = cell.int().clamp(min=0).minimum(size + _BORDER).unbind(-1)
    image_index = torch.arange(batch, dtype=torch.int32, device=value.device)[:, None]
    ends = (shapes[:, 0] + _BORDER).cumsum(0, dtype=torch.int32)
    start = image_index * height + ends - shapes[:, 0] - _BORDER  # (B, L)
    head = torch.arange(heads, dtype=torch.int32, device=value.device)[:, None, None]
    rows = ((row + start[:, None, None, :, None]) * width + column) * heads + head

    lower = attention_weights.to(dtype) * down
    upper = attention_weights.to(dtype) - lower
    lower_right, upper_right = lower * right, upper * right
    corners = (upper - upper_right, upper_right, lower - lower_right, lower_right)
    steps = tuple(heads * step for step in (0, 1, width, width + 1))
    bags = batch * queries * heads
    # torch.jit.trace, by which MACs are counted, cannot follow the Function.
    sum_of_rows = _SumOfRows.apply if torch.is_grad_enabled() else _sum_of_rows
    output = sum_of_rows(
        image.flatten(0, 3),
        rows.view(bags, -1),
        steps,
        *(each.reshape(bags, -1) for each in corners),
    )
    return output.view(batch, queries, -1).to(value.dtype)


def _one_image(value: Tensor, shapes: list[list[int]]) -> Tensor:
    """All levels under each other with zeros between them: (B, H, W, M, D).

    Each has two columns of zeros to its left and two rows above it, which are its neighbours'
    borders on the right and below too: a sample beyond the map is among zeros on any side.
    """
    widest = max(width for _, width in shapes)
    levels = value.split([height * width for height, width in shapes], dim=1)
    padded = [
        F.pad(level.unflatten(1, shape), (0, 0, 0, 0, _BORDER, widest - shape[1], _BORDER, 0))
        for level, shape in zip(levels, shapes, strict=True)
    ]
    below = torch.zeros_like(padded[0][:, :1]).expand(-1, _BORDER + 1, -1, -1, -1)
    return torch.cat([*padded, below], dim=1)


def _sum_of_rows(table: Tensor, rows: Tensor, steps: tuple[int, ...], *weights: Tensor) -> Tensor:
    return sum(
        F.embedding_bag(rows, table[step:], per_sample_weights=each, mode='sum')
        for step, each in zip(steps, weights, strict=True)
    )


class _SumOfRows(torch.autograd.Function):
    """Row n of the output is the sum over s and k of ``weights[s][n, k] * table[rows[n, k] + s]``.

    ``F.embedding_bag`` gives the same gradients several times slower: it sorts all steps' rows.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        table: Tensor,
        rows: Tensor,
        steps: tuple[int, ...],
        *weights: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(table, rows, *weights)
        ctx.steps = steps
        return _sum_of_rows(table, rows, steps, *weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        table, rows, *weights = ctx.saved_tensors
        (bags, length), count, grad = rows.shape, len(table), grad.contiguous()
        starts = torch.arange(0, rows.numel() + 1, length, dtype=rows.dtype, device=rows.device)
        rows = rows.flatten()
        order = rows.argsort()
        users = (order // length).to(rows.dtype)  # the bags of each row of the table
        user_starts = F.pad(rows.bincount(minlength=count).cumsum(0), (1, 0)).to(rows.dtype)
        grad_table, grad_weights = torch.zeros_like(table), []
        for step, each in zip(ctx.steps, weights, strict=True):
            entries = torch.sparse_csr_tensor(
                starts, rows, each.flatten(), (bags, count - step), check_invariants=False
            )
            products = torch.sparse.sampled_addmm(entries, grad, table[step:].T, beta=0)
            grad_weights.append(products.values().view_as(each))
            grad_rows = F.embedding_bag(
                users,
                grad,
                user_starts,
                per_sample_weights=each.take(order),
                mode='sum',
                include_last_offset=True,
            )
            grad_table[step:] += grad_rows[: count - step]
        return grad_table, None, None, *grad_weights
