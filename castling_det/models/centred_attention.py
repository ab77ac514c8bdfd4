"""The attention of the seam that a trained softmax ViT is converted to."""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.errors import InputError
from castling_det.models.attention import CastlingAttention, Grid, index_at_queries
from castling_det.models.layers import cell_weights
from castling_det.ops import centred_angular_attention


class GridConv(nn.Conv2d):
    """One 3x3 filter a head on the tokens' grid, shared by the head's channels; no bias.

    Its specification is :meth:`nn.Conv2d.forward`, to which heads are the channels. It starts as
    zero.

    Args:
        num_heads (int): H.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__(num_heads, num_heads, 3, padding=1, groups=num_heads, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, v: Tensor, hw: Grid) -> Tensor:
        """``(B, H, h * w, Dv)`` on a grid of ``hw`` to the same."""
        batch, heads, tokens, dims = v.shape
        grid = v.transpose(1, 2).reshape(batch, *hw, heads * dims).permute(0, 3, 1, 2)
        weight = self.weight.repeat_interleave(dims, dim=0)
        grid = F.conv2d(grid, weight, padding=1, groups=heads * dims)
        return grid.permute(0, 2, 3, 1).reshape(batch, tokens, heads, dims).transpose(1, 2)


def cell_means(x: Tensor, hw: Grid, side: int) -> Tensor:
    """Adaptive average pooling of tokens on a grid: ``(B, H, h * w, D)``, side² tokens a head."""
    rows, columns = (cell_weights(side, length, x) for length in hw)
    maps = x.transpose(-2, -1).unflatten(-1, hw)  # (B, H, D, h, w)
    maps = (maps @ columns.T).transpose(-2, -1) @ rows.T  # (B, H, D, across, down)
    return maps.transpose(-2, -1).flatten(3).transpose(-2, -1)


@MODELS.register_module()
class CentredAttention(nn.Module):
    """Linear attention for models that were trained with softmax.

    :func:`castling_det.ops.centred_angular_attention` with a 3x3 convolution of the values on the
    grid as its local term. It is not the published form, whose output norm and whose sums over the
    keys a trained projection does not expect: calibrated, it is close to the softmax that it
    replaces (docs/castle-your-vit.md). There is no auxiliary branch and nothing to castle.

    Args:
        num_heads (int): H.
        key_dims, value_dims (int): Accepted as every attention of the seam.
        cells (int): The grid of any input is divided into ``cells`` x ``cells``. Defaults to 6.

    Attributes:
        coarse, angular, mass (nn.Parameter): See the function; ``(H,)``. :meth:`fit` sets them.

    Raises:
        InputError: For ``cells`` under 1.
    """

    accepts_bias = False

    def __init__(self, num_heads: int, key_dims: int, value_dims: int, cells: int = 6) -> None:
        super().__init__()
        if cells < 1:
            raise InputError(f'CentredAttention needs a cell or more, not cells={cells}')
        self.cells = cells
        self.conv = GridConv(num_heads)
        self.coarse = nn.Parameter(torch.ones(num_heads))
        self.angular = nn.Parameter(torch.full((num_heads,), 2 / math.pi))
        self.mass = nn.Parameter(torch.zeros(num_heads))

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

        Raises:
            InputError: If ``bias`` is given, or without the grid of the keys.
        """
        if bias is not None:
            raise InputError('CentredAttention takes no bias: linear attention has no logits')
        if kv_hw is None:
            raise InputError('CentredAttention needs kv_hw: its cells are of the grid')
        keys, values = k[:, :, num_extra_tokens:], v[:, :, num_extra_tokens:]
        local = self.conv(values, kv_hw)
        if q_hw != kv_hw:
            local = local.index_select(2, index_at_queries(q_hw, kv_hw, v.device))
        means = (cell_means(x, kv_hw, self.cells) for x in (keys, values))
        return centred_angular_attention(
            q, k, v, *means, local, self.coarse, self.angular, self.mass
        )

    @torch.no_grad()
    def fit(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_hw: Grid | None = None,
        kv_hw: Grid | None = None,
        bias: Tensor | None = None,
        num_extra_tokens: int = 0,
    ) -> Tensor:
        """Bring the output close to softmax attention, by least squares a head.

        ``mass`` is the mean of what it stands for; then the output is linear in coarse, angular and
        the convolution's taps, and one solution of the normal equations is the best.

        Args:
            q, k, v, q_hw, kv_hw, bias, num_extra_tokens: As for :meth:`forward`.

        Returns:
            Tensor: Softmax attention of the arguments, ``(B, H, Nq, Dv)``.
        """
        softmax = F.scaled_dot_product_attention(q, k, v)
        args = (q, k, v, q_hw, kv_hw, bias, num_extra_tokens)
        of_grid, keys = q[:, :, num_extra_tokens:], k[:, :, num_extra_tokens:]
        means = cell_means(keys, kv_hw, self.cells)

        def log_mean_exp(keys: Tensor) -> Tensor:
            logits = of_grid @ keys.transpose(-2, -1) * q.shape[-1] ** -0.5
            return logits.logsumexp(dim=-1) - math.log(keys.shape[-2])

        self.mass.copy_((log_mean_exp(keys) - log_mean_exp(means)).mean(dim=(0, 2)))

        def on_grid(x: Tensor) -> Tensor:
            """A row a head, float64: ``(H, B * Nq * Dv)``."""
            return x[:, :, num_extra_tokens:].transpose(0, 1).flatten(1).double()

        coefficients = (self.coarse, self.angular, *self.conv.weight.flatten(1).unbind(dim=1))
        for coefficient in coefficients:
            coefficient.zero_()
        at_zero = on_grid(self.forward(*args))  # a hook may have called us
        terms = []
        for coefficient in coefficients:
            coefficient.fill_(1)
            terms.append(on_grid(self.forward(*args)) - at_zero)
            coefficient.zero_()
        rows = torch.stack(terms, dim=1)  # (H, terms, B * Nq * Dv)
        products = rows @ (on_grid(softmax) - at_zero)[..., None]
        solution = torch.linalg.pinv(rows @ rows.transpose(-2, -1), hermitian=True) @ products
        for coefficient, values in zip(coefficients, solution[..., 0].unbind(dim=1), strict=True):
            coefficient.copy_(values)
        return softmax


LINEAR = (CastlingAttention, CentredAttention)  # what has a softmax twin
