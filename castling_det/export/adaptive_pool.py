"""Adaptive average pooling of maps whose size is open, which ONNX has no operator for."""

import torch
from torch import Tensor, nn


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products.

    Args:
        size (int): Of the grid that maps are pooled to, a side.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C, size, size)``."""
        rows, cols = (self._weights(x, length) for length in x.shape[-2:])
        return rows @ x @ cols.T

    def _weights(self, x: Tensor, length: int) -> Tensor:
        """``(size, length)``: of each pixel of a cell, one divided by their number."""
        cell = torch.arange(self.size, device=x.device)[:, None]
        place = torch.arange(length, device=x.device)
        # Cell i goes from the floor of i * length / size to the ceiling of (i + 1) * length / size.
        begun = (place + 1) * self.size > cell * length
        inside = begun & (place * self.size < (cell + 1) * length)
        return (inside / inside.sum(dim=1, keepdim=True)).to(x.dtype)


def open_adaptive_pools(model: nn.Module) -> None:
    """Replace what pools to several cells, in place; pooling to one has an operator."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size != 1:
                setattr(parent, name, AdaptivePool(child.output_size))
