"""Attention modules behind one seam: q, k, v in, mixed values out.

A backbone owns its projections and chooses its attention by ``attn=dict(type=...)``::

    self.attn = MODELS.build(dict(attn, num_heads=H, key_dims=Dk, value_dims=Dv))
    out = self.attn(q, k, v, q_hw, kv_hw, bias, num_extra_tokens)   # (B, H, Nq, Dv)
"""

import itertools
import math
from dataclasses import dataclass

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.errors import InputError
from castling_det.ops import (
    linear_angular_attention,
    masked_softmax_attention,
    softmax_probabilities,
)

Grid = tuple[int, int]  # height and width in tokens


@dataclass(frozen=True, eq=False)
class VisibleGrid:
    """A grid of which only some places have a token, in each image others, as for MAE's encoder.

    It goes where a grid goes, as ``q_hw`` and ``kv_hw`` alike.

    Args:
        hw (tuple[int, int]): Height and width of the whole grid.
        places (Tensor): Where on the flattened grid each token stands, ``(B, N)``, int64.
    """

    hw: Grid
    places: Tensor


class MaskedSoftmax(nn.Module):
    """The auxiliary branch: softmax attention whose small probabilities are masked to zero.

    It owns no parameters, so both forms of a model have the same ``state_dict`` keys. It runs while
    ``.training``, as dropout does; :func:`castling_det.training_form` is the one exception.

    Args:
        threshold (float): t0, the threshold at ramp 0. Defaults to 0.02 (published code).

    Attributes:
        nonzeros (Tensor, optional): Share of the softmax entries above the threshold, a float32
            scalar, in the last forward.
    """

    def __init__(self, threshold: float = 0.02) -> None:
        super().__init__()
        self.threshold = threshold
        self.nonzeros = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ramp: float | Tensor) -> Tensor:
        out, self.nonzeros = masked_softmax_attention(q, k, v, self._threshold(ramp))
        return out

    @torch.no_grad()
    def mask(self, q: Tensor, k: Tensor, ramp: float | Tensor) -> Tensor:
        """Which softmax entries are above the threshold: ``(B, H, Nq, Nk)``, bool."""
        return softmax_probabilities(q, k) > self._threshold(ramp)

    def _threshold(self, ramp: float | Tensor) -> float | Tensor:
        return self.threshold + (1 - self.threshold) * ramp


class TokenConv(nn.Conv2d):
    """One filter a head along the flattened tokens, shared by the head's channels.

    Its specification is :meth:`nn.Conv2d.forward`, to which heads are the channels and tokens the
    rows of an image. Here each channel of each head is one, side by side in memory, which is
    faster on a CPU, the more so the more tokens (tests/benchmarks/benchmark_token_conv.py).

    Args:
        num_heads (int): H.
        kernel_size (int): Odd number of taps.

    Raises:
        InputError: For an even ``kernel_size``.
    """

    def __init__(self, num_heads: int, kernel_size: int) -> None:
        if kernel_size % 2 == 0:
            raise InputError(
                f'kernel_size must be odd to keep the number of tokens, not {kernel_size}'
            )
        super().__init__(
            num_heads,
            num_heads,
            (kernel_size, 1),
            padding=(kernel_size // 2, 0),
            groups=num_heads,
            bias=False,
        )

    def forward(self, v: Tensor) -> Tensor:
        """``(B, H, N, Dv)`` to the same."""
        batch, heads, tokens, dims = v.shape
        rows = v.transpose(1, 2).reshape(batch, tokens, 1, heads * dims).permute(0, 3, 1, 2)
        weight = self.weight.expand(-1, dims, -1, -1).reshape(heads * dims, 1, -1, 1)
        rows = F.conv2d(rows, weight, padding=self.padding, groups=heads * dims)
        return rows.permute(0, 2, 3, 1).reshape(batch, tokens, heads, dims).transpose(1, 2)


@MODELS.register_module()
class CastlingAttention(nn.Module):
    """Linear-angular attention that trains with an auxiliary masked softmax branch.

    out = unit_norm(v / 2 + q̂ (k̂ᵀ v) / pi + aux) + convolution of v along the flattened tokens, one
    filter a head. Castling-ViT, arXiv 2211.10526, as the published code has it. Aux runs in
    training only, with the threshold t0 + (1 - t0) * ``ramp``, and is skipped at ramp 1;
    :class:`CastlingHook` sets it.

    Args:
        num_heads (int): H.
        key_dims, value_dims (int): Dk and Dv; accepted as every attention of the seam.
        kernel_size (int, optional): Odd number of taps of the convolution; None for no convolution.
            Defaults to 9.
        aux (dict, optional): Arguments of :class:`MaskedSoftmax`; None builds the inference form.

    Raises:
        InputError: For an even ``kernel_size``.
    """

    accepts_bias = False

    def __init__(
        self,
        num_heads: int,
        key_dims: int,
        value_dims: int,
        kernel_size: int | None = 9,
        aux: dict | None = dict(threshold=0.02),
    ) -> None:
        super().__init__()
        self.conv = None if kernel_size is None else TokenConv(num_heads, kernel_size)
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
        del self.aux  # None in its place as a child would stop whoever walks over modules
        self.aux = None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_hw: Grid | VisibleGrid | None = None,
        kv_hw: Grid | VisibleGrid | None = None,
        bias: Tensor | None = None,
        num_extra_tokens: int = 0,
    ) -> Tensor:
        """Mix the values.

        Args:
            q (Tensor): Queries ``(B, H, Nq, Dk)``.
            k (Tensor): Keys ``(B, H, Nk, Dk)``.
            v (Tensor): Values ``(B, H, Nk, Dv)``.
            q_hw, kv_hw (tuple[int, int] | VisibleGrid, optional): Height and width of both grids;
                needed where they differ. Each query's own value and the convolution of v are then
                read at the query's place. Of a :class:`VisibleGrid` the convolution sees the whole,
                with zeros at hidden places as beyond the ends.
            bias (Tensor, optional): Must be None: a kernel has no logits to add it to.
            num_extra_tokens (int): How many leading tokens (class token, ...) of q, k and v are not
                on the grid. They stay out of the convolution.

        Returns:
            Tensor: ``(B, H, Nq, Dv)``.

        Raises:
            InputError: If ``bias`` is given, or if the grids are needed and missing.
        """
        if bias is not None:
            raise InputError('CastlingAttention takes no bias: linear attention has no logits')
        own, at_queries = v, None
        if q_hw != kv_hw or q.shape[-2] != k.shape[-2]:
            at_queries = index_at_queries(q_hw, kv_hw, v.device)
            own = self._at_queries(v, at_queries, num_extra_tokens)
        aux = None
        if self.aux is not None and self.aux.training and not self._has_vanished:
            aux = self.aux(q, k, v, self._ramp)
        local = None
        if self.conv is not None:
            local = self._convolved(v[:, :, num_extra_tokens:], kv_hw)
            if num_extra_tokens:
                local = F.pad(local, (0, 0, num_extra_tokens, 0))
            if at_queries is not None:
                local = self._at_queries(local, at_queries, num_extra_tokens)
        return linear_angular_attention(q, k, v, own, aux, local)

    def _convolved(self, v: Tensor, hw: Grid | VisibleGrid | None) -> Tensor:
        if not isinstance(hw, VisibleGrid):
            return self.conv(v)
        index = hw.places[:, None, :, None].expand_as(v)
        whole = v.new_zeros(*v.shape[:2], math.prod(hw.hw), v.shape[3]).scatter(2, index, v)
        return self.conv(whole).gather(2, index)

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
        InputError: If a grid is missing.
    """
    if q_hw is None or kv_hw is None:
        raise InputError('queries and keys on different grids need q_hw and kv_hw')

    def along(num_queries: int, num_keys: int) -> Tensor:
        places = torch.arange(num_queries, device=device)
        # By comparisons it is a number to torch.export too, whatever the grids.
        stride = next(s for s in itertools.count(1) if s * num_queries >= num_keys)
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
            bias (Tensor, optional): ``(H, Nq, Nk)`` or ``(B, H, Nq, Nk)``, added to the logits. The
                grids and ``num_extra_tokens`` mean nothing to softmax attention.

        Returns:
            Tensor: ``(B, H, Nq, Dv)``.
        """
        if bias is not None:
            bias = (bias if bias.ndim == 4 else bias[None]).to(q.dtype)
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
            raise InputError(f'embed_dims={embed_dims} is not a multiple of num_heads={num_heads}')
        self.num_heads = num_heads
        dims = embed_dims // num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn = MODELS.build(dict(attn, num_heads=num_heads, key_dims=dims, value_dims=dims))
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.register_load_state_dict_pre_hook(_load_published_keys)

    def forward(
        self, x: Tensor, hw: Grid | VisibleGrid | None = None, num_extra_tokens: int = 0
    ) -> Tensor:
        """Mix the tokens.

        Args:
            x (Tensor): ``(B, N, C)``.
            hw (tuple[int, int] | VisibleGrid, optional): Grid of the tokens; what is drawn of the
                masks needs it, and so does the convolution where tokens are hidden.
            num_extra_tokens (int): Leading tokens that are not on the grid.

        Returns:
            Tensor: ``(B, N, C)``.
        """
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in qkv)  # (B, H, N, D)
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
