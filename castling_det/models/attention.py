"""Attention modules behind one seam: q, k, v in, mixed values out.

A backbone owns its projections and chooses its attention by ``attn=dict(type=...)``::

    self.attn = MODELS.build(dict(attn, num_heads=H, key_dims=Dk, value_dims=Dv))
    out = self.attn(q, k, v, q_hw, kv_hw, bias, num_extra_tokens)   # (B, H, Nq, Dv)
"""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.models.value_conv import Grid, GridConv, TokenConv
from castling_det.ops import (
    linear_angular_attention,
    masked_softmax_attention,
    softmax_probabilities,
)


class MaskedSoftmax(nn.Module):
    """The auxiliary branch: softmax attention whose small probabilities are masked to zero.

    It owns no parameters, so both forms of a model have the same ``state_dict`` keys. It runs while
    ``.training``, as dropout does; :func:`castling_det.training_form` is the one exception.

    Args:
        threshold (float): t0, the threshold at ramp 0. Defaults to 0.02 (published code).
        per_key (bool): t0 is ``threshold`` / number of keys, so that it asks the same of small and
            large grids. Defaults to False.
        vanishes_by (str): What the ramp does until it is 1. 'threshold' rises to 1; 'factor' is a
            fixed threshold, and the output times 1 - ramp; 'penalty' is a fixed threshold, and a
            loss on the logits, see :class:`Penalty`. Defaults to 'threshold'.

    Attributes:
        measures (bool): Whether the next forward measures ``nonzeros``, which costs a second
            softmax. Starts as False.
        nonzeros (Tensor, optional): Share of the softmax entries above the threshold, a float32
            scalar, in the last forward that measured it.
    """

    def __init__(
        self, threshold: float = 0.02, per_key: bool = False, vanishes_by: str = 'threshold'
    ) -> None:
        super().__init__()
        if vanishes_by not in ('threshold', 'factor', 'penalty'):
            raise ValueError(f'aux.vanishes_by is not {vanishes_by!r}')
        self.vanishes_by = vanishes_by
        self.threshold = threshold
        self.per_key = per_key
        self.measures = False
        self.nonzeros = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ramp: float | Tensor) -> Tensor:
        if self.measures:
            self.nonzeros = self.mask(q, k, ramp).float().mean()
        out = masked_softmax_attention(q, k, v, self._threshold(k, ramp))
        if self.vanishes_by == 'factor':
            return (1 - ramp).to(out.dtype) * out
        if self.vanishes_by == 'penalty':
            p = softmax_probabilities(q, k).clamp(min=1e-30)  # log 0 has no gradient
            excess = p.log() - math.log(self._threshold(k, ramp))
            return Penalty.apply(out, PENALTY * ramp * excess.relu().square().mean())
        return out

    @torch.no_grad()
    def mask(self, q: Tensor, k: Tensor, ramp: float | Tensor) -> Tensor:
        """Which softmax entries are above the threshold: ``(B, H, Nq, Nk)``, bool."""
        return softmax_probabilities(q, k) > self._threshold(k, ramp)

    def _threshold(self, k: Tensor, ramp: float | Tensor) -> float | Tensor:
        start = self.threshold / k.shape[-2] if self.per_key else self.threshold
        if self.vanishes_by != 'threshold':
            return start
        return start + (1 - start) * ramp


PENALTY = 1.0


class Penalty(torch.autograd.Function):
    """Add a number to the loss that ``out`` leads to: its gradient is 1, that of ``out`` is kept.

    The penalty of an attention is ramp * mean over all softmax entries p of
    relu(log p - log threshold)², which is 0 where the mask is empty.
    """

    @staticmethod
    def forward(ctx, out: Tensor, penalty: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.new_ones((), dtype=torch.float32)


@MODELS.register_module()
class CastlingAttention(nn.Module):
    """Linear-angular attention that trains with an auxiliary masked softmax branch.

    out = unit_norm(constant term + q̂ (k̂ᵀ v) / pi + aux) + convolution of v. Castling-ViT,
    arXiv 2211.10526; the defaults are the published code's. Aux runs in training only, with the
    threshold t0 + (1 - t0) * ``ramp``, and is skipped at ramp 1; :class:`CastlingHook` sets it.

    Args:
        num_heads (int): H.
        key_dims (int): Dk, width of a head's queries and keys.
        value_dims (int): Dv, width of a head's values.
        kernel_size (int | tuple[int, int], optional): Odd. A number is a convolution along the
            tokens, a pair one on the grid, None no convolution. Defaults to 9.
        constant (str): 'identity', 'mean' or 'none', see
            :func:`castling_det.ops.linear_angular_attention`.
        divide_by_keys (bool): Divide the sum over keys by their number. Defaults to False.
        aux (dict, optional): Arguments of :class:`MaskedSoftmax`; None builds the inference form.

    Raises:
        ValueError: For an unknown ``constant`` or an even ``kernel_size``.
    """

    accepts_bias = False

    def __init__(
        self,
        num_heads: int,
        key_dims: int,
        value_dims: int,
        kernel_size: int | tuple[int, int] | None = 9,
        constant: str = 'identity',
        divide_by_keys: bool = False,
        aux: dict | None = dict(threshold=0.02),
    ) -> None:
        super().__init__()
        if constant not in ('identity', 'mean', 'none'):
            raise ValueError(f"constant is 'identity', 'mean' or 'none', not {constant!r}")
        self.constant = constant
        self.divide_by_keys = divide_by_keys
        if kernel_size is None:
            self.conv = None
        elif isinstance(kernel_size, int):
            self.conv = TokenConv(num_heads, kernel_size)
        else:
            self.conv = GridConv(num_heads * value_dims, kernel_size)
        self.aux = None if aux is None else MaskedSoftmax(**aux)
        # A tensor, because torch.compile would guard on the value of a number; on the CPU, where it
        # is an operand without a transfer; no buffer, because averages of models swap those.
        self._ramp = torch.zeros((), dtype=torch.float64, device='cpu')
        self._has_vanished = False

    @property
    def ramp(self) -> float:
        """0 to 1; at 1 every mask is empty, and aux is skipped in training too."""
        return self._ramp.item()

    @ramp.setter
    def ramp(self, ramp: float) -> None:
        self._ramp.fill_(ramp)
        self._has_vanished = ramp >= 1

    def switch_to_deploy(self) -> None:
        """Drop aux, for good; see :func:`castling_det.castle`, which does it to a whole model."""
        self.aux = None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_hw: Grid | None = None,
        kv_hw: Grid | None = None,
        bias: Tensor | None = None,
        num_extra_tokens: int = 0,
    ) -> Tensor:
        """Mix the values.

        Args:
            q (Tensor): Queries ``(B, H, Nq, Dk)``.
            k (Tensor): Keys ``(B, H, Nk, Dk)``.
            v (Tensor): Values ``(B, H, Nk, Dv)``.
            q_hw, kv_hw (tuple[int, int], optional): Height and width of both grids; needed where
                they differ, and by a convolution on the grid. The constant term and the
                convolution of v are then read at the queries' places.
            bias (Tensor, optional): Must be None: a kernel has no logits to add it to.
            num_extra_tokens (int): How many leading tokens (class token, ...) of q, k and v are not
                on the grid. They stay out of the convolution.

        Returns:
            Tensor: ``(B, H, Nq, Dv)``.

        Raises:
            ValueError: If ``bias`` is given, or if the grids are needed and missing.
        """
        if bias is not None:
            raise ValueError('CastlingAttention takes no bias: linear attention has no logits')
        own, at_queries = v, None
        if q_hw != kv_hw or q.shape[-2] != k.shape[-2]:
            at_queries = index_at_queries(q_hw, kv_hw, v.device)
            own = self._at_queries(v, at_queries, num_extra_tokens)
        aux = None
        if self.aux is not None and self.aux.training and not self._has_vanished:
            aux = self.aux(q, k, v, self._ramp)
        out = linear_angular_attention(q, k, v, own, aux, self.constant, self.divide_by_keys)
        if self.conv is None:
            return out
        local = self.conv(v[:, :, num_extra_tokens:], kv_hw)
        local = F.pad(local, (0, 0, num_extra_tokens, 0))
        if at_queries is not None:
            local = self._at_queries(local, at_queries, num_extra_tokens)
        return out + local

    @staticmethod
    def _at_queries(v: Tensor, index: Tensor, num_extra_tokens: int) -> Tensor:
        extra, grid = v[:, :, :num_extra_tokens], v[:, :, num_extra_tokens:]
        return torch.cat((extra, grid.index_select(2, index)), dim=2)


def index_at_queries(q_hw: Grid | None, kv_hw: Grid | None, device: torch.device) -> Tensor:
    """For each query on its grid, the key at the same place of the keys' grid.

    Strided queries stand on every s-th row and column, s = ceil(n_keys / n_queries); queries of any
    other grid take the nearest key before them.

    Returns:
        Tensor: ``(q_h * q_w,)``, int64.

    Raises:
        ValueError: If a grid is missing.
    """
    if q_hw is None or kv_hw is None:
        raise ValueError('queries and keys on different grids need q_hw and kv_hw')

    def along(num_queries: int, num_keys: int) -> Tensor:
        places = torch.arange(num_queries, device=device)
        stride = math.ceil(num_keys / num_queries)
        if (num_queries - 1) * stride < num_keys:
            return places * stride
        return places * num_keys // num_queries

    rows, cols = (along(nq, nk) for nq, nk in zip(q_hw, kv_hw, strict=True))
    return (rows[:, None] * kv_hw[1] + cols).flatten()


@MODELS.register_module()
class SoftmaxAttention(nn.Module):
    """Softmax attention behind the same seam: the softmax twin of :class:`CastlingAttention`.

    Args:
        num_heads, value_dims (int): Accepted as every attention of the seam, not needed here.
        key_dims (int): Dk; logits are scaled by Dk ** -0.5.
    """

    accepts_bias = True

    def __init__(self, num_heads: int, key_dims: int, value_dims: int) -> None:
        super().__init__()
        self.scale = key_dims**-0.5

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_hw: Grid | None = None,
        kv_hw: Grid | None = None,
        bias: Tensor | None = None,
        num_extra_tokens: int = 0,
    ) -> Tensor:
        """Mix the values; shapes as in :meth:`CastlingAttention.forward`.

        Args:
            bias (Tensor, optional): ``(H, Nq, Nk)``, added to the logits. The grids and
                ``num_extra_tokens`` mean nothing to softmax attention.

        Returns:
            Tensor: ``(B, H, Nq, Dv)``.
        """
        if bias is not None:
            bias = bias[None].to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)


@MODELS.register_module()
class NoMixing(nn.Module):
    """The control of ablations: no token sees another.

    Zero on the queries' own grid; where a stage halves the grid, the average of the values that
    each query replaces.

    Args:
        num_heads, key_dims, value_dims (int): Accepted as every attention of the seam.
    """

    accepts_bias = False

    def __init__(self, num_heads: int, key_dims: int, value_dims: int) -> None:
        super().__init__()

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_hw: Grid | None = None,
        kv_hw: Grid | None = None,
        bias: Tensor | None = None,
        num_extra_tokens: int = 0,
    ) -> Tensor:
        """Shapes as in :meth:`CastlingAttention.forward`; extra tokens only on equal grids."""
        if q_hw == kv_hw:
            return torch.zeros_like(v)
        grid = v.transpose(-2, -1).flatten(0, 1).unflatten(-1, kv_hw)  # (B * H, Dv, h, w)
        pooled = F.adaptive_avg_pool2d(grid, q_hw).flatten(2).unflatten(0, v.shape[:2])
        return pooled.transpose(-2, -1)


@MODELS.register_module()
class SelfAttention(nn.Module):
    """Projection to q, k, v, attention, projection: for plain ViTs and other people's code.

    With the default attention it is the published Castling-ViT block; a ``state_dict`` of that
    block (``qkv``, ``proj``, ``dconv``) loads as it is.

    Args:
        embed_dims (int): C, a multiple of ``num_heads``.
        num_heads (int): H.
        attn (dict): Config of the attention.
        qkv_bias (bool): Whether q, k and v have a bias. Defaults to True.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        attn: dict = dict(type='CastlingAttention'),
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} is not a multiple of num_heads={num_heads}')
        self.num_heads = num_heads
        dims = embed_dims // num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn = MODELS.build(dict(attn, num_heads=num_heads, key_dims=dims, value_dims=dims))
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.register_load_state_dict_pre_hook(_load_published_keys)

    def forward(self, x: Tensor, hw: Grid | None = None, num_extra_tokens: int = 0) -> Tensor:
        """Mix the tokens.

        Args:
            x (Tensor): ``(B, N, C)``.
            hw (tuple[int, int], optional): Grid of the tokens, for a convolution on it.
            num_extra_tokens (int): Leading tokens that are not on the grid.

        Returns:
            Tensor: ``(B, N, C)``.
        """
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, N, D) each
        out = self.attn(q, k, v, hw, hw, num_extra_tokens=num_extra_tokens)
        return self.proj(out.transpose(1, 2).flatten(2))


def _load_published_keys(module: SelfAttention, state_dict: dict, prefix: str, *_) -> None:
    """Rename the published block's convolution, and give q, k, v its (absent) bias of zero."""
    published = state_dict.pop(f'{prefix}dconv.weight', None)
    if published is None:
        return
    state_dict[f'{prefix}attn.conv.weight'] = published
    if module.qkv.bias is not None:
        state_dict.setdefault(f'{prefix}qkv.bias', torch.zeros_like(module.qkv.bias))
