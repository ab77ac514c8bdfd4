"""The attention of the seam that a trained softmax ViT is converted to."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from castling_det.errors import InputError
from castling_det.models.attention import CastlingAttention, Grid, VisibleGrid
from castling_det.ops import focal_attention


@MODELS.register_module()
class FocalAttention(nn.Module):
    """Linear attention for models that were trained with softmax.

    :func:`castling_det.ops.focal_attention`, which has no weights. It is not the published form,
    whose output norm and whose sums over the keys a trained projection does not expect: it is close
    to the softmax that it replaces (docs/castle-your-vit.md), and on a grid of no more than
    ``cells`` x ``cells`` tokens it is that softmax. There is no auxiliary branch and nothing to
    castle.

    Args:
        num_heads, key_dims, value_dims (int): Accepted as every attention of the seam.
        cells (int): The grid of any input is divided into ``cells`` x ``cells`` at most. Defaults
            to 12.

    Raises:
        InputError: For ``cells`` under 1.
    """

    accepts_bias = False

    def __init__(self, num_heads: int, key_dims: int, value_dims: int, cells: int = 12) -> None:
        super().__init__()
        if cells < 1:
            raise InputError(f'FocalAttention needs a cell or more, not cells={cells}')
        self.cells = cells

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
            InputError: If ``bias`` is given, without the grids, or where places of them are hidden.
        """
        if bias is not None:
            raise InputError('FocalAttention takes no bias: cells have no positions')
        if q_hw is None or kv_hw is None:
            raise InputError('FocalAttention needs q_hw and kv_hw: its windows are of the grid')
        if isinstance(q_hw, VisibleGrid):
            raise InputError('FocalAttention needs the whole grid: its windows have no gaps')
        return focal_attention(q, k, v, q_hw, kv_hw, self.cells, num_extra_tokens)


LINEAR = (CastlingAttention, FocalAttention)  # what has a softmax twin
