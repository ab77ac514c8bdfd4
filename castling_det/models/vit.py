"""Plain ViT (DeiT, MAE) with the attention chosen by config, as a backbone of stride 16."""

from functools import partial

import torch
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from castling_det.errors import InputError
from castling_det.models.attention import Grid, SelfAttention, VisibleGrid
from castling_det.models.base import CastlingBackbone, chosen_arch, chosen_blocks
from castling_det.models.layers import DropPath
from castling_det.models.pretrained import vit_state_dict

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Embedding(nn.Module):
    """Image to tokens: patches and their positions, behind a class token if there is one.

    Positions are learnt on one grid and resized bicubically to any other. The class token holds
    its own position: other libraries keep the two apart, but only their sum is ever used.

    Args:
        embed_dims (int): C.
        patch_size (int): Side of a patch in pixels.
        pos_grid (tuple[int, int]): Height and width of the grid that positions are learnt on.
        with_cls_token (bool): Whether a class token leads the tokens.
    """

    def __init__(
        self, embed_dims: int, patch_size: int, pos_grid: Grid, with_cls_token: bool
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dims, patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dims, *pos_grid))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims)) if with_cls_token else None
        self.num_extra_tokens = int(with_cls_token)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Image ``(B, 3, H, W)`` to tokens ``(B, N, C)`` and their grid.

        Zeros below and to the right fill the patches that the image covers in part.
        """
        below, right = (-n % size for n, size in zip(x.shape[-2:], self.proj.stride, strict=True))
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        x = self.proj(x)
        hw = x.shape[-2:]
        x = (x + self._positions(hw)).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return x, hw

    def _positions(self, hw: Grid) -> Tensor:
        if self.pos_embed.shape[-2:] == hw:
            return self.pos_embed
        return F.interpolate(self.pos_embed, hw, mode='bicubic', align_corners=False)


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dims: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(dims, ratio * dims)
        self.down = nn.Linear(ratio * dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and in a residual."""

    def __init__(
        self, embed_dims: int, num_heads: int, mlp_ratio: int, attn: dict, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(embed_dims), LayerNorm(embed_dims)
        self.attn = SelfAttention(embed_dims, num_heads, attn)
        self.mlp = MLP(embed_dims, mlp_ratio)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, hw: Grid | VisibleGrid, num_extra_tokens: int) -> Tensor:
        """``(B, N, C)`` to the same; the leading extra tokens are not on the grid."""
        x = x + self.drop_path(self.attn(self.norm1(x), hw, num_extra_tokens))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class CastlingViT(CastlingBackbone):
    """Plain ViT backbone for any input size, with linear-angular or softmax attention.

    With ``attn=dict(type='SoftmaxAttention')`` it is the ViT of DeiT (arXiv 2012.12877) and MAE
    (arXiv 2111.06377) itself. Every map has stride 16; blocks after the last map asked for are not
    built. The class token takes part in the attention and in no map.

    Args:
        arch (str | dict): 'deit-tiny', 'deit-small', 'deit-base' (= ViT-B/16), 'nano' (tests and
            demo), or a dict with ``embed_dims``, ``num_heads`` and ``depths``, one number each.
        attn (dict): Config of the attention. Defaults to ``dict(type='CastlingAttention')``.
        softmax_blocks (tuple[int, ...]): Blocks whose attention is softmax whatever ``attn`` says;
            -1 is the last. Defaults to none.
        out_indices (tuple[int, ...]): Blocks whose maps are returned, in this order; -1 is the
            last. Defaults to (-1,).
        out_type (str): 'featmap', or 'cls_token' for the class tokens of ``out_indices``,
            ``(B, C)``, in the place of their maps, as mmpretrain's ``VisionTransformerClsHead``
            takes them. Defaults to 'featmap'.
        with_cls_token (bool): Whether there is a class token. Defaults to True, as in DeiT and MAE.
        final_norm (bool): Whether the last block's map is normalised. Defaults to True.
        pos_grid (int | tuple[int, int]): Grid that positions are learnt on, which is the input size
            / 16: its side, or height and width; other grids resize them. Defaults to 14, the grid
            of 224 px.
        drop_path_rate (float): Of the last block's residuals; it rises linearly from 0 in the
            first. Defaults to 0.
        frozen_stages (int): -1 trains all, 0 freezes the embedding, i the first i blocks too, and
            the final norm with the last of them: no gradients, eval mode. Defaults to -1.
        with_cp (bool): Keep the inputs of each block alone for the backward pass and compute the
            rest again. Defaults to False.
        init_cfg (dict | list[dict], optional): ``dict(type='Pretrained', checkpoint=FILE)`` reads a
            local file in our own, DeiT's, MAE's, timm's, mmpretrain's, transformers' or JAX's keys,
            optionally under ``prefix`` (mmpretrain's files: 'backbone'); docs/weights.md.

    Raises:
        InputError: For an unknown ``arch`` or ``out_type``, a class token that is asked for and not
            there, and for blocks that do not exist or are not built.
    """

    arch_zoo = {
        'nano': dict(embed_dims=128, num_heads=4, depths=6),
        'deit-tiny': dict(embed_dims=192, num_heads=3, depths=12),
        'deit-small': dict(embed_dims=384, num_heads=6, depths=12),
        'deit-base': dict(embed_dims=768, num_heads=12, depths=12),
    }
    patch_size, mlp_ratio = 16, 4

    def __init__(
        self,
        arch: str | dict = 'deit-small',
        attn: dict = dict(type='CastlingAttention'),
        softmax_blocks: tuple[int, ...] = (),
        out_indices: tuple[int, ...] = (-1,),
        out_type: str = 'featmap',
        with_cls_token: bool = True,
        final_norm: bool = True,
        pos_grid: int | Grid = 14,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(frozen_stages, init_cfg)
        arch = chosen_arch('CastlingViT', self.arch_zoo, arch)
        depths, dims = arch['depths'], arch['embed_dims']
        self.out_indices, softmax_blocks, num_blocks = chosen_blocks(
            out_indices, softmax_blocks, frozen_stages, depths
        )
        if out_type not in ('featmap', 'cls_token'):
            raise InputError(f"out_type is 'featmap' or 'cls_token', not {out_type!r}")
        if out_type == 'cls_token' and not with_cls_token:
            raise InputError("out_type='cls_token' needs with_cls_token=True")
        self.out_type, self.with_cp = out_type, with_cp
        self.embed = Embedding(dims, self.patch_size, to_2tuple(pos_grid), with_cls_token)
        self.blocks = nn.ModuleList(
            Block(
                dims,
                arch['num_heads'],
                self.mlp_ratio,
                dict(type='SoftmaxAttention') if index in softmax_blocks else attn,
                drop_path_rate * index / max(1, depths - 1),
            )
            for index in range(num_blocks)
        )
        self.unbuilt = tuple(f'blocks.{index}.' for index in range(num_blocks, depths))
        self.norm = LayerNorm(dims) if final_norm and num_blocks == depths else nn.Identity()
        self.apply(_initialise)
        self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image ``(B, 3, H, W)`` to maps ``(B, C, ceil(H / 16), ceil(W / 16))`` or class tokens."""
        x, hw = self.embed(x)
        tokens = self.through_blocks(x, hw)
        if self.out_type == 'cls_token':
            return tuple(tokens[index][:, 0] for index in self.out_indices)
        return tuple(self._map(tokens[index], hw) for index in self.out_indices)

    def through_blocks(self, x: Tensor, hw: Grid | VisibleGrid) -> list[Tensor]:
        """The tokens ``(B, N, C)`` after each block, those of the last one normalised."""
        tokens = []
        for block in self.blocks:
            if self.with_cp and self.training:
                x = checkpoint(block, x, hw, self.embed.num_extra_tokens, use_reentrant=False)
            else:
                x = block(x, hw, self.embed.num_extra_tokens)
            tokens.append(x)
        tokens[-1] = self.norm(x)
        return tokens

    def _map(self, x: Tensor, hw: Grid) -> Tensor:
        return x[:, self.embed.num_extra_tokens :].transpose(1, 2).unflatten(-1, hw)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Place of a parameter on the way from input to head, for layer-wise learning rates.

        Args:
            param_name (str): Name in the whole model.
            prefix (str): Name of this backbone in the model, with a dot ('backbone.').

        Returns:
            tuple[int, int]: The layer, 0 for the embedding and i + 1 for block i, and the number of
            layers; the last layer is the final norm's and of what is not below ``prefix``.
        """
        num_layers = len(self.blocks) + 2
        part, *place = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or part == 'norm':
            return num_layers - 1, num_layers
        return (0 if part == 'embed' else int(place[0]) + 1), num_layers

    def parts(self) -> list[nn.Module]:
        """The embedding, the blocks, and with the last of them the final norm."""
        *blocks, last = self.blocks
        return [self.embed, *blocks, nn.ModuleList([last, self.norm])]

    convert = staticmethod(vit_state_dict)


def _initialise(module: nn.Module) -> None:
    """DeiT's initialisation: linear layers, positions and class token narrow, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Embedding):
        for parameter in module.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=0.02)
