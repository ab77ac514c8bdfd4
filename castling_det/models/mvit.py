"""MViTv2 (arXiv 2112.01526) with the attention chosen by config, as a four-level backbone."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from castling_det.castlifying import castlify
from castling_det.errors import InputError
from castling_det.models.base import CastlingBackbone, chosen_arch
from castling_det.models.pretrained import mvit_state_dict


@MODELS.register_module()
class CastlingMViT(CastlingBackbone):
    """MViTv2, castlified, for any input size: strides 4, 8, 16 and 32.

    Its blocks are timm's: pooling attention, residual pooling, downscaling at the first block of a
    stage. Queries and keys live on different grids, so the published form reads a query's own value
    and the convolution at the query's place on the keys' grid. Relative positions are added to the
    logits; linear attention has none, so they stay with the softmax stages. A layer norm of its own
    ends each map.

    Args:
        arch (str | dict): 'nano', 'tiny', 'small' or 'base', or a dict with ``depths``, blocks of
            the four stages, ``embed_dims`` and ``num_heads`` of the first stage, and
            ``drop_path_rate``. Defaults to 'tiny'.
        attn (dict): Config of the attention. With ``dict(type='SoftmaxAttention')`` it is MViTv2
            itself. Defaults to the training form of the published one.
        softmax_stages (tuple[int, ...]): Stages whose attention is softmax whatever ``attn`` says.
            Defaults to the last: with its 49 tokens of a 224 px image and heads 96 wide, linear
            attention costs more.
        out_indices (tuple[int, ...]): Stages whose maps are returned; later ones are not built.
            Defaults to all.
        drop_path_rate (float, optional): Of the last block's residuals; it rises linearly from 0 in
            the first. Defaults to the arch's.
        pos_grid (int): Side of the first stage's grid, for which the tables of relative positions
            are made; for another input they are resized linearly. Defaults to 56, that of 224 px.
        frozen_stages (int): -1 trains all, 0 freezes the patch embedding, i the first i stages too,
            with the norms of their maps. Defaults to -1.
        with_cp (bool): Keep the inputs of each block alone for the backward pass and compute the
            rest again. Defaults to False.
        init_cfg (dict, optional): ``dict(type='Pretrained', checkpoint=FILE)`` takes the authors',
            timm's, mmpretrain's and our own keys.

    Raises:
        InputError: For an unknown ``arch``, and for stages that do not exist or are not built.
    """

    arch_zoo = {
        'nano': dict(embed_dims=32, num_heads=1, depths=(1, 1, 2, 1), drop_path_rate=0.0),
        'tiny': dict(embed_dims=96, num_heads=1, depths=(1, 2, 5, 2), drop_path_rate=0.1),
        'small': dict(embed_dims=96, num_heads=1, depths=(1, 2, 11, 2), drop_path_rate=0.1),
        'base': dict(embed_dims=96, num_heads=1, depths=(2, 3, 16, 3), drop_path_rate=0.3),
    }

    def __init__(
        self,
        arch: str | dict = 'tiny',
        attn: dict = dict(type='CastlingAttention'),
        softmax_stages: tuple[int, ...] = (3,),
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        drop_path_rate: float | None = None,
        pos_grid: int = 56,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(frozen_stages, init_cfg)
        arch = chosen_arch('CastlingMViT', self.arch_zoo, arch)
        if not out_indices or not set(out_indices) | set(softmax_stages) <= {0, 1, 2, 3}:
            raise InputError(
                'out_indices and softmax_stages are among 0, 1, 2, 3, at least one in out_indices, '
                f'but got {out_indices} and {softmax_stages}'
            )
        num_stages = 1 + max(out_indices)
        if frozen_stages not in range(-1, num_stages + 1):
            raise InputError(f'frozen_stages is from -1 to {num_stages}, not {frozen_stages}')
        if drop_path_rate is None:
            drop_path_rate = arch['drop_path_rate']
        self.with_cp = with_cp
        self.out_indices = tuple(out_indices)
        self.depths = tuple(arch['depths'])
        model = _build_timm(arch, pos_grid, drop_path_rate)
        self.patch_embed = model.patch_embed
        self.stages = model.stages[:num_stages]
        self.unbuilt = tuple(f'stages.{index}.' for index in range(num_stages, len(self.depths)))
        self.norms = nn.ModuleDict(
            {
                str(index): nn.LayerNorm(arch['embed_dims'] * 2**index, eps=1e-6)
                for index in sorted(set(self.out_indices))
            }
        )
        for index, stage in enumerate(self.stages):
            chosen = dict(type='SoftmaxAttention') if index in softmax_stages else attn
            has_logits = getattr(MODELS.get(chosen['type']), 'accepts_bias', False)
            for table in castlify(stage, chosen, drop_bias=not has_logits).dropped:
                module, name = table.rsplit('.', 1)
                delattr(stage.get_submodule(module), name)
        self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image ``(B, 3, H, W)`` to maps ``(B, C * 2^i, ceil(H / s_i), ceil(W / s_i))``."""
        x, hw = self.patch_embed(x)
        maps = {}
        for index, stage in enumerate(self.stages):
            x, hw = stage(x, hw)
            if index in self.out_indices:
                maps[index] = self.norms[str(index)](x).transpose(1, 2).unflatten(-1, tuple(hw))
        return tuple(maps[index] for index in self.out_indices)

    def train(self, mode: bool = True) -> 'CastlingMViT':
        """As any module's, but frozen parts stay in eval mode; returns the backbone."""
        for stage in self.stages:
            stage.grad_checkpointing = self.with_cp and mode
        return super().train(mode)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Place of a parameter on the way from input to head; see ``CastlingViT``'s."""
        depths = self.depths[: len(self.stages)]
        num_layers = sum(depths) + 2
        part, *place = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or part == 'norms':
            return num_layers - 1, num_layers
        if part == 'patch_embed':
            return 0, num_layers
        return 1 + sum(depths[: int(place[0])]) + int(place[2]), num_layers

    def parts(self) -> list[nn.Module]:
        """The patch embedding, and the stages with the norms of their maps."""
        stages = [
            nn.ModuleList([stage, *([self.norms[str(i)]] if str(i) in self.norms else [])])
            for i, stage in enumerate(self.stages)
        ]
        return [self.patch_embed, *stages]

    def convert(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the authors', timm's and mmpretrain's keys to our own."""
        return mvit_state_dict(state_dict, self.depths)


def _build_timm(arch: dict, pos_grid: int, drop_path_rate: float) -> nn.Module:
    # Importing castling_det brings torch and mmengine alone.
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    cfg = MultiScaleVitCfg(
        depths=tuple(arch['depths']),
        embed_dim=tuple(arch['embed_dims'] * 2**index for index in range(4)),
        num_heads=tuple(arch['num_heads'] * 2**index for index in range(4)),
    )
    return MultiScaleVit(cfg, 4 * pos_grid, num_classes=0, drop_path_rate=drop_path_rate)
