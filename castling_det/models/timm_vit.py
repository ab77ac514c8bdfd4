"""Any plain ViT of timm, castlified, as a backbone."""

import difflib
from functools import partial
from pathlib import Path

from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import Tensor, nn

from castling_det.castlifying import castlify
from castling_det.checkpoint import fit_weights, load_weights
from castling_det.errors import InputError
from castling_det.models.base import CastlingBackbone, chosen_blocks
from castling_det.models.pretrained import timm_state_dict

FAMILIES = ('vision_transformer', 'deit', 'eva')  # modules of timm that plain ViTs are from


@MODELS.register_module()
class CastlingTimm(CastlingBackbone):
    """A ViT that timm builds (ViT, DeiT III, CLIP, DINOv2, EVA-02, DINOv3), for any input size.

    Projections, norms, LayerScale, registers, rotary positions and gates are timm's; ``castlify``
    puts the attention into it. Positions are resized to each input as timm does. Zeros below and to
    the right fill the patches that the image covers in part. The map of the last block is
    normalised; tokens that are not on the grid take part in the attention and in no map.

    Args:
        model_name (str): Of timm. Defaults to 'vit_small_patch14_dinov2'.
        pretrained (bool | str): What ``init_weights`` loads: a local file in timm's, transformers',
            DINOv2's own, mmpretrain's or JAX's keys (docs/weights.md), or with True the weights
            that timm downloads. Defaults to False, random weights.
        attn (dict): Config of the attention. With ``dict(type='SoftmaxAttention')`` it computes
            what timm's model does. Defaults to ``dict(type='FocalAttention')``.
        softmax_blocks (tuple[int, ...]): Blocks that keep timm's attention; -1 is the last.
            Defaults to none.
        out_indices (tuple[int, ...]): Blocks whose maps are returned, in this order; -1 is the
            last. Later blocks are not built. Defaults to (-1,).
        drop_path_rate (float): Of the last block's residuals; it rises linearly from 0 in the
            first. Defaults to 0.
        frozen_stages (int): -1 trains all, 0 freezes the embedding, i the first i blocks too, and
            the final norm with the last of them: no gradients, eval mode. Defaults to -1.
        with_cp (bool): Keep the inputs of each block alone for the backward pass and compute the
            rest again. Defaults to False.
        timm_args (dict): What ``timm.create_model`` takes besides, as ``img_size``, whose grid the
            positions are learnt on. Defaults to none.

    Raises:
        InputError: If timm has no such model or it is no plain ViT, and for blocks that do not
            exist or are not built.
    """

    def __init__(
        self,
        model_name: str = 'vit_small_patch14_dinov2',
        pretrained: bool | str = False,
        attn: dict = dict(type='FocalAttention'),
        softmax_blocks: tuple[int, ...] = (),
        out_indices: tuple[int, ...] = (-1,),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        timm_args: dict = dict(),
    ) -> None:
        super().__init__(frozen_stages, init_cfg=None)
        self.pretrained, self.with_cp = pretrained, with_cp
        self.model_name, self.timm_args = model_name, timm_args
        self.vit = self._build(drop_path_rate=drop_path_rate)
        depths = len(self.vit.blocks)
        self.out_indices, softmax_blocks, num_blocks = chosen_blocks(
            out_indices, softmax_blocks, frozen_stages, depths
        )
        if isinstance(self.vit.norm, nn.Identity):  # it pools first, and norms then
            self.vit.norm = self.vit.fc_norm
        self.vit.prune_intermediate_layers(list(self.out_indices), prune_norm=num_blocks < depths)
        self.vit.unbuilt = tuple(f'blocks.{index}.' for index in range(num_blocks, depths))
        castlify(self.vit, attn, [i for i in range(num_blocks) if i not in softmax_blocks])
        self.freeze()

    def _build(self, **options: float | bool) -> nn.Module:
        """timm's model without its classifier."""
        import timm  # importing castling_det brings torch and mmengine alone

        name = self.model_name
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=3)
            nearest = f'; the nearest are {", ".join(close)}' if close else ''
            raise InputError(f'timm {timm.__version__} has no model {name}{nearest}')
        if not timm.models.is_model_in_modules(name, FAMILIES):
            raise InputError(
                f'{name} is no plain ViT: CastlingTimm takes those of timm.models.'
                f'{", ".join(FAMILIES)}'
            )
        any_size = dict(dynamic_img_size=True, dynamic_img_pad=True)
        return timm.create_model(name, num_classes=0, **any_size, **options, **self.timm_args)

    def init_weights(self) -> None:
        """Load ``pretrained``, if there is, and log what was new or left.

        Raises:
            InputError: If the file is not read or does not fit, or if timm cannot download one.
        """
        if self.pretrained is True:
            name = f"timm's {self.model_name}"
            try:
                downloaded = self._build(pretrained=True)
            except OSError as error:  # of huggingface_hub, requests and urllib alike
                reason = str(error).partition('\n')[0]
                raise InputError(
                    f'the weights of {name} cannot be downloaded ({reason}): download them where '
                    'there is a network, and give pretrained=FILE; new-config finds them in the '
                    'folder that CASTLING_DET_WEIGHTS names'
                ) from error
            weights = timm_state_dict(
                downloaded.state_dict(), self.vit.state_dict(), _num_extra_positions(self.vit)
            )
            weights, report = fit_weights(self.vit, weights, name, strict=False)
            self.vit.load_state_dict(weights, strict=False)
            MMLogger.get_current_instance().info(report)
        elif self.pretrained:
            load_vit(self.vit, self.pretrained)

    def train(self, mode: bool = True) -> 'CastlingTimm':
        """As any module's, but frozen parts stay in eval mode; returns the backbone."""
        self.vit.set_grad_checkpointing(self.with_cp and mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image ``(B, 3, H, W)`` to maps ``(B, C, ceil(H / patch), ceil(W / patch))``."""
        hw = self.vit.patch_embed.dynamic_feat_size(x.shape[-2:])
        taken = sorted(set(self.out_indices))
        tokens = self.vit.forward_intermediates(x, taken, output_fmt='NLC', intermediates_only=True)
        tokens[-1] = self.vit.norm(tokens[-1])
        maps = dict(zip(taken, tokens, strict=True))
        return tuple(maps[i].transpose(1, 2).unflatten(-1, hw) for i in self.out_indices)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Place of a parameter on the way from input to head; see ``CastlingViT``'s."""
        num_layers = len(self.vit.blocks) + 2
        part, *place = param_name.removeprefix(f'{prefix}vit.').split('.')
        if not param_name.startswith(prefix) or part == 'norm':
            return num_layers - 1, num_layers
        return (int(place[0]) + 1 if part == 'blocks' else 0), num_layers

    def parts(self) -> list[nn.Module]:
        """The embedding, the blocks, and with the last of them the final norm."""
        vit, (*blocks, last) = self.vit, self.vit.blocks
        rest = [m for name, m in vit.named_children() if name not in ('blocks', 'norm')]
        tokens = nn.ParameterList(vit.parameters(recurse=False))
        return [nn.ModuleList([*rest, tokens]), *blocks, nn.ModuleList([last, vit.norm])]


def load_vit(vit: nn.Module, filename: str | Path) -> None:
    """Fill a ViT that timm built from a file of timm, transformers, DINOv2, mmpretrain or JAX.

    Whole or not at all; a classifier of the file that does not fit is left, and the log says so.
    timm itself loads nothing from other libraries' keys, and goes on. A file's positions are on a
    square grid; in timm's keys, as many as the model has are taken to be on the model's grid, with
    a warning where that is not square.

    Example::

        model = timm.create_model('vit_small_patch14_dinov2', num_classes=5, img_size=518)
        castling_det.load_vit(model, 'dinov2-small/model.safetensors')

    Args:
        vit (nn.Module): timm's ``VisionTransformer`` or ``Eva``, not castlified yet, or castlified.
            Positions are resized to its grid.
        filename (str | Path): docs/weights.md has the families that are known.

    Raises:
        InputError: If the file is not read or does not fit, or if the model is another one.
    """
    if not hasattr(vit, 'no_embed_class'):
        raise InputError(
            f"load_vit fills timm's plain ViTs (VisionTransformer, Eva), not {type(vit).__name__}: "
            "take timm.create_model(..., checkpoint_path=FILE) for another model of timm's, and "
            'load_state_dict for any other'
        )
    load_weights(vit, filename, partial(_to_timm, vit), strict=False)


def _num_extra_positions(vit: nn.Module) -> int:
    """How many positions are off the grid."""
    return 0 if vit.no_embed_class else vit.num_prefix_tokens


def _to_timm(vit: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    from timm.layers import resample_abs_pos_embed

    num_extra = _num_extra_positions(vit)
    weights = timm_state_dict(state_dict, vit.state_dict(), num_extra)
    positions, own = weights.get('pos_embed'), vit.pos_embed
    if positions is None or own is None:
        return weights
    side, grid = round((positions.shape[1] - num_extra) ** 0.5), vit.patch_embed.grid_size
    if positions.shape[1] != side**2 + num_extra or (side, side) == grid:
        return weights
    resized = f'from {side}x{side} to {grid[0]}x{grid[1]}'
    logger = MMLogger.get_current_instance()
    has_timms_keys = any(key.endswith('patch_embed.proj.weight') for key in state_dict)
    if positions.shape == own.shape and has_timms_keys:
        img_size = side * vit.patch_embed.patch_size[0]
        logger.warning(
            f'pos_embed is not resized {resized}, as a model of this grid may have saved it; if it '
            f'is of {side}x{side}, build the model with img_size={img_size}'
        )
        return weights
    weights['pos_embed'] = resample_abs_pos_embed(positions, grid, num_prefix_tokens=num_extra)
    logger.info(f'pos_embed is resized {resized}')
    return weights
