"""LC-PAN, the neck of PicoDet as of 2022.03 (PaddleDetection release/2.6, `picodet_v2.yml`)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from castling_det.errors import InputError

NORM_CFG = dict(type='BN')
ACT_CFG = dict(type='HSwish')


def depthwise_unit(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    """The brick of PicoDet: depthwise 5x5, norm, hard-swish, pointwise 1x1, norm, hard-swish."""
    return DepthwiseSeparableConvModule(
        in_channels, out_channels, 5, stride, padding=2, norm_cfg=NORM_CFG, act_cfg=ACT_CFG
    )


@MODELS.register_module()
class LCPAN(BaseModule):
    """Path aggregation network of depthwise-separable 5x5 convolutions.

    Every input is brought to ``out_channels``; a top-down and a bottom-up pass follow, which join
    two neighbouring levels by concatenation and two depthwise units. Upsampling goes to the exact
    size of the finer map, so that any image size works.

    Args:
        in_channels (Sequence[int]): Channels of the inputs, finest first: three maps of strides
            8, 16, 32, or four of strides 8, 16, 32, 64. With three, the fourth output is made of
            the coarsest input and the coarsest output, each halved by a depthwise unit.
        out_channels (int): Channels of each output: 96 in PicoDet-XS and -S, 128 in -M, 160 in -L.

    Raises:
        InputError: If there are neither three nor four ``in_channels``.

    Source: Yu et al., PP-PicoDet, arXiv:2111.00902, and the release named above.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
    ) -> None:
        super().__init__()
        if len(in_channels) not in (3, 4):
            raise InputError(f'LCPAN takes 3 or 4 feature maps, but in_channels is {in_channels}')

        def join() -> nn.Sequential:
            return nn.Sequential(
                depthwise_unit(2 * out_channels, 2 * out_channels),
                depthwise_unit(2 * out_channels, out_channels),
            )

        def halve() -> nn.Module:
            return depthwise_unit(out_channels, out_channels, stride=2)

        num_steps = len(in_channels) - 1
        self.reduce = nn.ModuleList(
            ConvModule(channels, out_channels, 1, norm_cfg=NORM_CFG, act_cfg=ACT_CFG)
            for channels in in_channels
        )
        self.top_down = nn.ModuleList(join() for _ in range(num_steps))
        self.downsample = nn.ModuleList(halve() for _ in range(num_steps))
        self.bottom_up = nn.ModuleList(join() for _ in range(num_steps))
        self.makes_stride_64 = len(in_channels) == 3
        if self.makes_stride_64:
            self.halve_input = halve()
            self.halve_output = halve()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fuse the levels.

        Args:
            inputs (Sequence[Tensor]): As many maps as ``in_channels``, finest first, each
                (B, in_channels[i], H_i, W_i) with H_{i+1} = ceil(H_i / 2), and so for W.

        Returns:
            tuple[Tensor]: Four maps (B, out_channels, H_i, W_i) of strides 8, 16, 32 and 64.
        """
        maps = [reduce(x) for reduce, x in zip(self.reduce, inputs, strict=True)]
        for i in reversed(range(len(maps) - 1)):
            coarser = F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode='nearest')
            maps[i] = self.top_down[i](torch.cat([coarser, maps[i]], dim=1))

        outs = maps[:1]
        for downsample, join, x in zip(self.downsample, self.bottom_up, maps[1:], strict=True):
            outs.append(join(torch.cat([downsample(outs[-1]), x], dim=1)))
        if self.makes_stride_64:
            outs.append(self.halve_input(maps[-1]) + self.halve_output(outs[-1]))
        return tuple(outs)
