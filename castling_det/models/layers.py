"""Layers that several backbones are made of."""

import torch
from torch import Tensor, nn


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm; a stride of 2 rounds sizes up."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels)


class LinearBN(nn.Module):
    """Linear layer without bias, batch norm over all tokens of the batch; ``(B, N, C)``."""

    def __init__(self, in_dims: int, out_dims: int, bn_weight: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dims, out_dims, bias=False)
        self.bn = nn.BatchNorm1d(out_dims)
        nn.init.constant_(self.bn.weight, bn_weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.bn(x.flatten(0, 1)).reshape(x.shape)


class DropPath(nn.Module):
    """Zero a residual branch for random samples of the batch in training, scale up the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * kept / (1 - self.rate)
