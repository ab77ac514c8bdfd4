"""ViTDet's pyramid: four levels out of the last map of a plain ViT."""

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.errors import InputError


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

    Transposed convolutions enlarge the map 4 and 2 times, halving its channels each time, max
    pooling halves it; a 1 x 1 and a 3 x 3 convolution then bring each level to ``out_channels``.
    Norms are over the channels. Source: ViTDet, arXiv 2203.16527, section 3 and appendix A.2.
    mmseg's ``Feature2Pyramid`` takes maps of four blocks instead and keeps their width.

    Args:
        in_channels (int): C of the map.
        out_channels (int): C of every level. Defaults to 256.
    """

    def __init__(self, in_channels: int, out_channels: int = 256) -> None:
        super().__init__()
        half, quarter = in_channels // 2, in_channels // 4
        self.rescale = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                    ChannelNorm(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, stride=2),
                ),
                nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, bias=False),
                ChannelNorm(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                ChannelNorm(out_channels),
            )
            for channels in (quarter, half, in_channels, in_channels)
        )

    def forward(self, inputs: tuple[Tensor]) -> tuple[Tensor, ...]:
        """One map ``(B, C, H, W)`` to ``(B, out_channels, ...)`` at 4H, 2H, H and H // 2.

        Raises:
            InputError: If the map has a single row or column, which leaves the last level nothing.
        """
        (x,) = inputs
        height, width = x.shape[-2:]
        if height < 2 or width < 2:
            raise InputError(
                f'an image of {height} x {width} patches is too small for the last level of '
                'SimpleFeaturePyramid: use images and crops of at least 2 x 2 patches'
            )
        levels = zip(self.rescale, self.project, strict=True)
        return tuple(project(rescale(x)) for rescale, project in levels)
