"""LeViT (arXiv 2104.01136) with the attention chosen by config, as a four-level backbone."""

from itertools import pairwise

import torch
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.errors import InputError
from castling_det.models.attention import Grid
from castling_det.models.base import CastlingBackbone, chosen_arch
from castling_det.models.layers import ConvBN, DropPath, LinearBN
from castling_det.models.pretrained import levit_state_dict


class LogitBias(nn.Module):
    """LeViT's attention biases: one number a head for each distance in rows and columns.

    The table covers the distances of the grid that it was trained on; for another grid it is
    resized bilinearly, so that a distance keeps its meaning as a share of the image.

    Args:
        num_heads (int): H.
        grid (tuple[int, int]): Height and width of the grid that the table was trained on.
        stride (int): Step of the queries on the keys' grid.
    """

    def __init__(self, num_heads: int, grid: Grid, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.table = nn.Parameter(torch.zeros(num_heads, *grid))

    def forward(self, kv_hw: Grid) -> Tensor:
        """Return ``(H, Nq, Nk)``."""
        table = self.table
        if table.shape[1:] != kv_hw:
            table = F.interpolate(table[None], kv_hw, mode='bilinear', align_corners=True)[0]
        dy, dx = (self._distances(n) for n in kv_hw)  # (nq, nk) each
        bias = table[:, dy[:, None, :, None], dx[None, :, None, :]]
        return bias.flatten(3).flatten(1, 2)

    def _distances(self, num_keys: int) -> Tensor:
        keys = torch.arange(num_keys, device=self.table.device)
        return (keys[:: self.stride, None] - keys).abs()


class Attention(nn.Module):
    """Projections around the attention of one block; hard-swish stands before the last one.

    With ``stride`` 2 the queries are every second row and column, which halves the grid.

    Args:
        in_dims, out_dims (int): Width of the tokens before and after.
        num_heads (int): H.
        key_dims, value_dims (int): Widths of a head.
        attn (dict): Config of the attention.
        bias_grid (tuple[int, int]): Grid of the logit biases, made only if the attention accepts
            a bias.
        stride (int): 1 or 2. Defaults to 1.
        bn_weight (float): Initial weight of the last batch norm. Defaults to 1.
    """

    def __init__(
        self,
        in_dims: int,
        out_dims: int,
        num_heads: int,
        key_dims: int,
        value_dims: int,
        attn: dict,
        bias_grid: Grid,
        stride: int = 1,
        bn_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.stride = num_heads, stride
        self.widths = (key_dims, key_dims, value_dims)
        if stride == 1:
            self.qkv = LinearBN(in_dims, num_heads * sum(self.widths))
        else:
            self.q = LinearBN(in_dims, num_heads * key_dims)
            self.kv = LinearBN(in_dims, num_heads * (key_dims + value_dims))
        self.attn = MODELS.build(
            dict(attn, num_heads=num_heads, key_dims=key_dims, value_dims=value_dims)
        )
        self.bias = LogitBias(num_heads, bias_grid, stride) if self.attn.accepts_bias else None
        self.proj = LinearBN(num_heads * value_dims, out_dims, bn_weight)

    def forward(self, x: Tensor, hw: Grid) -> Tensor:
        """``(B, h * w, in_dims)`` to ``(B, ceil(h / stride) * ceil(w / stride), out_dims)``."""
        if self.stride == 1:
            q_hw = hw
            q, k, v = self._heads(self.qkv(x)).split(self.widths, dim=-1)
        else:
            rows = x.unflatten(1, hw)[:, :: self.stride, :: self.stride]
            q_hw = rows.shape[1:3]
            q = self._heads(self.q(rows.flatten(1, 2)))
            k, v = self._heads(self.kv(x)).split(self.widths[1:], dim=-1)
        bias = None if self.bias is None else self.bias(hw)
        out = self.attn(q, k, v, q_hw, hw, bias)
        return self.proj(F.hardswish(out.transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, N, D)


class MLP(nn.Module):
    """Linear, hard-swish, linear; the last batch norm starts at zero."""

    def __init__(self, dims: int, ratio: int) -> None:
        super().__init__()
        self.up = LinearBN(dims, ratio * dims)
        self.down = LinearBN(ratio * dims, dims, bn_weight=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.hardswish(self.up(x)))


class Block(nn.Module):
    """Attention and MLP, each in a residual."""

    def __init__(self, attn: Attention, mlp: MLP, drop_path_rate: float) -> None:
        super().__init__()
        self.attn, self.mlp, self.drop_path = attn, mlp, DropPath(drop_path_rate)

    def forward(self, x: Tensor, hw: Grid) -> Tensor:
        x = x + self.drop_path(self.attn(x, hw))
        return x + self.drop_path(self.mlp(x))


class Downsample(Block):
    """The same without a residual around the attention, which halves the grid."""

    def forward(self, x: Tensor, hw: Grid) -> Tensor:
        x = self.attn(x, hw)
        return x + self.drop_path(self.mlp(x))


class Stem(nn.Module):
    """Four convolutions of stride 2 with hard-swish between them."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        widths = (3, embed_dims // 8, embed_dims // 4, embed_dims // 2, embed_dims)
        self.convs = nn.ModuleList(
            ConvBN(narrow, wide, 3, stride=2) for narrow, wide in pairwise(widths)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image to the maps of stride 8 (after its hard-swish) and stride 16."""
        for conv in self.convs[:-1]:
            x = F.hardswish(conv(x))
        return x, self.convs[-1](x)


def _halved(grid: Grid) -> Grid:
    return tuple((n + 1) // 2 for n in grid)  # as torch.export writes the shape of x[::2]


class Stage(nn.Module):
    """An optional downsampling and the blocks of one grid."""

    def __init__(self, downsample: Downsample | None, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C', h', w')``."""
        hw = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        if self.downsample is not None:
            x = self.downsample(x, hw)
            hw = _halved(hw)
        for block in self.blocks:
            x = block(x, hw)
        return x.transpose(1, 2).unflatten(-1, hw)


@MODELS.register_module()
class CastlingLeViT(CastlingBackbone):
    """LeViT backbone for any input size, with linear-angular or softmax attention.

    With ``attn=dict(type='SoftmaxAttention')`` and its logit biases it is LeViT itself; linear
    attention has no logits and no such biases. Maps: 0 is the stem at stride 8 (embed_dims[0] / 2
    channels), 1 to 3 are the stages at strides 16, 32 and 64. Stages after the last map asked for
    are not built.

    Args:
        arch (str | dict): '128s', '128', '192', '256', '384' (paper, table 2), 'nano' (tests and
            demo), or a dict with ``embed_dims``, ``num_heads``, ``depths`` (three numbers each),
            ``key_dims`` and optionally ``drop_path_rate``.
        attn (dict): Config of the attention. Defaults to ``dict(type='CastlingAttention')``.
        out_indices (tuple[int, ...]): Maps to return, ascending. Defaults to (0, 1, 2, 3).
        drop_path_rate (float, optional): Of every residual. Defaults to the arch's (0.1 for '384',
            else 0).
        bias_grid (int | tuple[int, int]): The first stage's grid that logit biases are learnt on,
            which is the input size / 16: its side, or height and width; other grids resize them.
            Defaults to 14, the grid of 224 px. Of no effect with an attention that accepts no bias.
        frozen_stages (int): -1 trains all, 0 freezes the stem, i the stages up to i too: no
            gradients, eval mode. Defaults to -1.
        init_cfg (dict | list[dict], optional): ``dict(type='Pretrained', checkpoint=FILE)`` reads a
            local file in our own, the authors', timm's or transformers' keys, optionally under
            ``prefix``; docs/weights.md.

    Raises:
        InputError: For an unknown ``arch``, and for stages that do not exist.
    """

    arch_zoo = {
        'nano': dict(embed_dims=(64, 128, 192), num_heads=(4, 6, 8), depths=(2, 2, 2), key_dims=16),
        '128s': dict(
            embed_dims=(128, 256, 384), num_heads=(4, 6, 8), depths=(2, 3, 4), key_dims=16
        ),
        '128': dict(
            embed_dims=(128, 256, 384), num_heads=(4, 8, 12), depths=(4, 4, 4), key_dims=16
        ),
        '192': dict(embed_dims=(192, 288, 384), num_heads=(3, 5, 6), depths=(4, 4, 4), key_dims=32),
        '256': dict(embed_dims=(256, 384, 512), num_heads=(4, 6, 8), depths=(4, 4, 4), key_dims=32),
        '384': dict(
            embed_dims=(384, 512, 768),
            num_heads=(6, 9, 12),
            depths=(4, 4, 4),
            key_dims=32,
            drop_path_rate=0.1,
        ),
    }
    stride = 16  # of the first stage
    value_ratio, downsample_value_ratio, mlp_ratio = 2, 4, 2

    def __init__(
        self,
        arch: str | dict = '128s',
        attn: dict = dict(type='CastlingAttention'),
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        drop_path_rate: float | None = None,
        bias_grid: int | Grid = 14,
        frozen_stages: int = -1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(frozen_stages, init_cfg)
        arch = chosen_arch('CastlingLeViT', self.arch_zoo, arch)
        if not set(out_indices) <= {0, 1, 2, 3} or not any(out_indices):
            raise InputError(
                f'out_indices are among 0, 1, 2, 3, at least one not 0, but got {out_indices}'
            )
        if frozen_stages not in range(-1, 4):
            raise InputError(f'frozen_stages is -1, 0, 1, 2 or 3, not {frozen_stages}')
        if drop_path_rate is None:
            drop_path_rate = arch.get('drop_path_rate', 0.0)
        self.out_indices = tuple(out_indices)
        self.stem = Stem(arch['embed_dims'][0])
        self.stages = nn.ModuleList()
        grid = to_2tuple(bias_grid)
        for index in range(max(out_indices)):
            self.stages.append(self._build_stage(arch, index, attn, drop_path_rate, grid))
            grid = _halved(grid) if index else grid
        last = len(arch['depths'])
        self.unbuilt = tuple(f'stages.{index}.' for index in range(max(out_indices), last))
        self.freeze()

    def _build_stage(
        self, arch: dict, index: int, attn: dict, drop_path_rate: float, bias_grid: Grid
    ) -> Stage:
        dims, key_dims = arch['embed_dims'][index], arch['key_dims']

        def mlp() -> MLP:
            return MLP(dims, self.mlp_ratio)

        downsample = None
        if index > 0:
            in_dims = arch['embed_dims'][index - 1]
            value_dims = self.downsample_value_ratio * key_dims
            halving = Attention(
                in_dims, dims, in_dims // key_dims, key_dims, value_dims, attn, bias_grid, stride=2
            )
            downsample = Downsample(halving, mlp(), drop_path_rate)
            bias_grid = _halved(bias_grid)
        blocks = []
        for _ in range(arch['depths'][index]):
            block_attn = Attention(
                dims,
                dims,
                arch['num_heads'][index],
                key_dims,
                self.value_ratio * key_dims,
                attn,
                bias_grid,
                bn_weight=0.0,
            )
            blocks.append(Block(block_attn, mlp(), drop_path_rate))
        return Stage(downsample, blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image ``(B, 3, H, W)`` to maps ``(B, C_i, ceil(H / s_i), ceil(W / s_i))``."""
        stride_8, x = self.stem(x)
        maps = [stride_8]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Place of a parameter on the way from input to head, for layer-wise learning rates.

        Args:
            param_name (str): Name in the whole model.
            prefix (str): Name of this backbone in the model, with a dot ('backbone.').

        Returns:
            tuple[int, int]: The layer and the number of layers. The stem is layer 0, then each
            downsampling and each block is one; the last layer is all that is not below ``prefix``.
        """
        layers = ['stem.']
        for index, stage in enumerate(self.stages):
            if stage.downsample is not None:
                layers.append(f'stages.{index}.downsample.')
            layers += [f'stages.{index}.blocks.{block}.' for block in range(len(stage.blocks))]
        own_name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return len(layers), len(layers) + 1
        depth = next(i for i, layer in enumerate(layers) if own_name.startswith(layer))
        return depth, len(layers) + 1

    def parts(self) -> list[nn.Module]:
        """The stem and the stages."""
        return [self.stem, *self.stages]

    convert = staticmethod(levit_state_dict)
