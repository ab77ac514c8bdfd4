"""ViTDet's pyramid: four levels out of the last map of a plain ViT."""

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of a map ``(B, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Levels of stride 4, 8, 16 and 32 from one map of stride 16, without lateral connections.

    Of a map of stride 14 they have 3.5, 7, 14 and 28. Transposed convolutions enlarge the map 4 and
    2 times, halving its channels each time, max pooling halves it; a 1 x 1 and a 3 x 3 convolution
    then bring each level to ``out_channels``. Norms are over the channels. Source: ViTDet, arXiv
    2203.16527, section 3 and appendix A.2. mmseg's ``Feature2Pyramid`` takes maps of four blocks
    instead and keeps their width.

    Args:
        in_channels (int): C of the map.
        out_channels (int): C of every level. Defaults to 256.
        levels (tuple[int, ...]): Which of the four levels there are, 0 the finest. Defaults to all.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        levels: tuple[int, ...] = (0, 1, 2, 3),
    ) -> None:
        super().__init__()
        half, quarter = in_channels // 2, in_channels // 4
        rescale = [
            nn.Sequential(
                nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                ChannelNorm(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2),
            ),
            nn.ConvTranspose2d(in_channels, half, 2, stride=2),
            nn.Identity(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]
        widths = (quarter, half, in_channels, in_channels)
        self.rescale = nn.ModuleList(rescale[level] for level in levels)
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[level], out_channels, 1, bias=False),
                ChannelNorm(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                ChannelNorm(out_channels),
            )
            for level in levels
        )

    def forward(self, inputs: tuple[Tensor]) -> tuple[Tensor, ...]:
        """One map ``(B, C, H, W)`` to ``(B, out_channels, ...)`` at 4H, 2H, H and ceil(H / 2)."""
        (x,) = inputs
        levels = zip(self.rescale, self.project, strict=True)
        return tuple(project(rescale(x)) for rescale, project in levels)
