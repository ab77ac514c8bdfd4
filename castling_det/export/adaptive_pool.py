"""Adaptive average pooling of maps whose size is open, which ONNX has no operator for."""

import torch
from torch import Tensor, nn


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products.

    Args:
        size (int | tuple[int, int]): Of the grid that maps are pooled to, a side or height and
            width.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C, *size)``."""
        rows, cols = (
            cell_weights(*sizes, x) for sizes in zip(self.size, x.shape[-2:], strict=True)
        )
        return rows @ x @ cols.T


def open_adaptive_pools(model: nn.Module) -> None:
    """Replace what pools to several cells, in place; pooling to one has an operator."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                setattr(parent, name, AdaptivePool(child.output_size))


def cell_weights(cells: int, length: int, like: Tensor) -> Tensor:
    """Adaptive average pooling of a row as a matrix, which ONNX has for rows of any length.

    Args:
        cells (int): What the row is divided into.
        length (int): Of the row.
        like (Tensor): Has the dtype and the device.

    Returns:
        Tensor: ``(cells, length)``: of each place in a cell, one divided by their number.
    """
    cell = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    # Cell i goes from the floor of i * length / cells to the ceiling of (i + 1) * length / cells.
    inside = ((place + 1) * cells > cell * length) & (place * cells < (cell + 1) * length)
    inside = inside.to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
