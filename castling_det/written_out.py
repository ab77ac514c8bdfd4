"""Attention modules of timm that write their softmax out, with the seam in its place.

Each function is the ``forward`` of one class, whose instance has the seam as its child
``castling``; shapes and return types are that class's own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.models.attention import Grid


def levit_attention(module: nn.Module, x: Tensor) -> Tensor:
    """timm's ``levit.Attention``: ``(B, N, C)``, or ``(B, C, H, W)`` where it has convolutions."""
    grid = _levit_grid(module, x)
    q, k, v = _levit_heads(module, module.qkv(x), module.key_dim, module.key_dim, module.val_dim)
    return _levit_output(module, q, k, v, grid, grid)


def levit_downsample(module: nn.Module, x: Tensor) -> Tensor:
    """timm's ``levit.AttentionDownsample``: to every second row and column."""
    grid = _levit_grid(module, x)
    k, v = _levit_heads(module, module.kv(x), module.key_dim, module.val_dim)
    (q,) = _levit_heads(module, module.q(x), module.key_dim)
    rows, columns = (-(-side // module.stride) for side in grid)
    return _levit_output(module, q, k, v, (rows, columns), grid)


def _levit_grid(module: nn.Module, x: Tensor) -> Grid:
    return tuple(x.shape[-2:]) if module.use_conv else module.resolution


def _levit_heads(module: nn.Module, x: Tensor, *dims: int) -> Sequence[Tensor]:
    """Projected tokens to ``(B, H, N, D)`` each."""
    if module.use_conv:
        x = x.flatten(2).transpose(1, 2)
    return x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2).split(dims, dim=-1)


def _levit_output(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, q_hw: Grid, kv_hw: Grid
) -> Tensor:
    seam = module.castling
    bias = module.get_attention_biases(q.device) if seam.passes_bias else None
    out = seam.attn(q, k, v, q_hw, kv_hw, bias).transpose(1, 2).flatten(2)
    if module.use_conv:
        out = out.transpose(1, 2).unflatten(-1, q_hw)
    return module.proj(out)


def multi_scale_attention(
    module: nn.Module, x: Tensor, feat_size: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """timm's ``mvitv2.MultiScaleAttention``: q, k and v pooled, k and v on another grid than q."""
    qkv = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    num_extra_tokens = int(module.has_cls_token)
    mixed, grids = [], []
    for part, letter in zip(qkv, 'qkv', strict=True):
        pool, norm = (getattr(module, f'{what}_{letter}') for what in ('pool', 'norm'))
        grid = tuple(feat_size)
        if pool is not None:
            extra, tokens = part[:, :, :num_extra_tokens], part[:, :, num_extra_tokens:]
            pooled = pool(tokens.transpose(-2, -1).flatten(0, 1).unflatten(-1, grid))
            grid = tuple(pooled.shape[-2:])
            tokens = pooled.flatten(2).transpose(1, 2).unflatten(0, part.shape[:2])
            part = torch.cat((extra, tokens), dim=2)
        mixed.append(part if norm is None else norm(part))
        grids.append(grid)
    q, k, v = mixed
    bias = None
    if module.castling.passes_bias and module.rel_pos_type == 'spatial':
        bias = _relative_positions(module, q, *grids[:2], num_extra_tokens)
    out = module.castling.attn(q, k, v, *grids[:2], bias, num_extra_tokens)
    if module.residual_pooling:
        out = out + q
    return module.proj(out.transpose(1, 2).flatten(2)), list(grids[0])


def _relative_positions(
    module: nn.Module, q: Tensor, q_hw: Grid, kv_hw: Grid, num_extra_tokens: int
) -> Tensor:
    """What MViTv2 (arXiv 2112.01526, equation 4) adds to the logits, ``(B, H, Nq, Nk)``.

    The tables are resized linearly, as in mmpretrain; on the grids that they were made for that
    changes nothing.
    """
    of_grid = q[:, :, num_extra_tokens:].unflatten(2, q_hw)  # (B, H, h, w, D)
    vertical, horizontal = (
        _at_distances(table, *sides)
        for table, sides in zip(
            (module.rel_pos_h, module.rel_pos_w), zip(q_hw, kv_hw, strict=True), strict=True
        )
    )
    rows = torch.einsum('bhyxd,ykd->bhyxk', of_grid, vertical)
    columns = torch.einsum('bhyxd,xkd->bhyxk', of_grid, horizontal)
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(-2).flatten(2, 3)
    return F.pad(bias, (num_extra_tokens, 0, num_extra_tokens, 0))


def _at_distances(table: Tensor, num_queries: int, num_keys: int) -> Tensor:
    """``(distances, D)`` to ``(Nq, Nk, D)`` along one side of the grids."""
    finest = max(num_queries, num_keys)
    table = F.interpolate(table.T[None], 2 * finest - 1, mode='linear')[0].T
    queries, keys = (
        torch.arange(side, device=table.device) * finest / side for side in (num_queries, num_keys)
    )
    return table[(queries[:, None] - keys + keys[-1]).long()]


FORWARDS: dict[str, Callable] = {
    'timm.models.levit.Attention': levit_attention,
    'timm.models.levit.AttentionDownsample': levit_downsample,
    'timm.models.mvitv2.MultiScaleAttention': multi_scale_attention,
}
# What they add to the logits, by the names of its parameters.
BIASES = ('attention_biases', 'rel_pos_h', 'rel_pos_w')
