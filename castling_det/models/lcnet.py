"""PP-LCNet, the backbone of PicoDet as of 2022.03 (PaddleDetection release/2.6)."""

from mmdet.models.layers import SELayer
from mmdet.models.utils import make_divisible
from mmengine.registry import MODELS
from torch import Tensor, nn

from castling_det.models.base import FileBackbone
from castling_det.models.layers import ConvBN

STEM_WIDTH = 16
STAGES = {  # (kernel size, width at scale 1, stride, squeeze and excitation) of each block
    'blocks2': [(3, 32, 1, False)],
    'blocks3': [(3, 64, 2, False), (3, 64, 1, False)],
    'blocks4': [(3, 128, 2, False), (3, 128, 1, False)],
    'blocks5': [(3, 256, 2, False)] + 5 * [(5, 256, 1, False)],
    'blocks6': [(5, 512, 2, True), (5, 512, 1, True)],
}


class ConvBNAct(ConvBN):
    """Convolution, batch norm, hard-swish."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups)
        self.act = nn.Hardswish()


class DepthwiseSeparable(nn.Sequential):
    """Depthwise convolution, channel attention where asked for, pointwise convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, with_se: bool
    ) -> None:
        super().__init__()
        self.dw_conv = ConvBNAct(in_channels, in_channels, kernel_size, stride, groups=in_channels)
        if with_se:
            self.se = SELayer(
                in_channels, ratio=4, act_cfg=(dict(type='ReLU'), dict(type=nn.Hardsigmoid))
            )
        self.pw_conv = ConvBNAct(in_channels, out_channels, 1)


@MODELS.register_module()
class LCNet(FileBackbone):
    """PP-LCNet without its classifier: five stages of strides 2, 4, 8, 16 and 32.

    Every width is a multiple of 8: PicoDet's maps have 48, 88 and 176 channels in -XS (scale 0.35),
    96, 192 and 384 in -S (0.75), 192, 384 and 768 in -M (1.5), 256, 512 and 1024 in -L (2.0).

    Args:
        scale (float): Factor on the widths 32, 64, 128, 256 and 512 of the stages.
        out_indices (tuple[int, ...]): Stages whose maps are returned, ascending. Defaults to
            (2, 3, 4): strides 8, 16 and 32.
        init_cfg (dict): Defaults to PaddlePaddle's, normal by the fan-in of each convolution.
            ``dict(type='Pretrained', checkpoint=FILE)`` reads a file in our keys or, from a
            ``.pdparams`` file, in PaddlePaddle's; of a whole detector with ``prefix='backbone'``.

    Source: Cui et al., PP-LCNet, arXiv:2109.15099, and the release named above.
    """

    def __init__(
        self,
        scale: float,
        out_indices: tuple[int, ...] = (2, 3, 4),
        init_cfg: dict = dict(type='Kaiming', layer='Conv2d', mode='fan_in'),
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = out_indices
        channels = make_divisible(STEM_WIDTH * scale, 8)
        self.conv1 = ConvBNAct(3, channels, 3, stride=2)
        for name, blocks in STAGES.items():
            stage = nn.Sequential()
            for kernel_size, width, stride, with_se in blocks:
                out_channels = make_divisible(width * scale, 8)
                stage.append(
                    DepthwiseSeparable(channels, out_channels, kernel_size, stride, with_se)
                )
                channels = out_channels
            self.add_module(name, stage)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract the maps.

        Args:
            x (Tensor): (B, 3, H, W) of any size.

        Returns:
            tuple[Tensor]: (B, C_i, ceil(H / stride_i), ceil(W / stride_i)) for each of
            ``out_indices``.
        """
        x = self.conv1(x)
        outs = []
        for index, name in enumerate(STAGES):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)
