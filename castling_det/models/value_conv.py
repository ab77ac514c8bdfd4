"""The depthwise convolution of the values that stands beside linear-angular attention."""

from torch import Tensor, nn

Grid = tuple[int, int]  # height and width in tokens


def _require_odd(*kernel_size: int) -> None:
    if any(taps % 2 == 0 for taps in kernel_size):
        raise ValueError(f'kernel_size must be odd to keep the number of tokens, not {kernel_size}')


class TokenConv(nn.Conv2d):
    """One filter a head along the flattened tokens, shared by the head's channels (published form).

    Args:
        num_heads (int): Heads of ``v``.
        kernel_size (int): Odd number of taps.
    """

    def __init__(self, num_heads: int, kernel_size: int) -> None:
        _require_odd(kernel_size)
        super().__init__(
            num_heads,
            num_heads,
            (kernel_size, 1),
            padding=(kernel_size // 2, 0),
            groups=num_heads,
            bias=False,
        )

    def forward(self, v: Tensor, hw: Grid | None) -> Tensor:
        return super().forward(v)


class GridConv(nn.Conv2d):
    """Depthwise convolution of the tokens laid out on their grid, a filter a channel.

    Args:
        channels (int): Heads x value width.
        kernel_size (tuple[int, int]): Odd height and width.
    """

    def __init__(self, channels: int, kernel_size: tuple[int, int]) -> None:
        _require_odd(*kernel_size)
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        super().__init__(
            channels, channels, kernel_size, padding=padding, groups=channels, bias=False
        )

    def forward(self, v: Tensor, hw: Grid | None) -> Tensor:
        if hw is None:
            raise ValueError('a convolution on the grid (kernel_size is a pair) needs kv_hw')
        batch, heads, tokens, dims = v.shape
        grid = v.transpose(-2, -1).reshape(batch, heads * dims, *hw)
        return super().forward(grid).reshape(batch, heads, dims, tokens).transpose(-2, -1)
