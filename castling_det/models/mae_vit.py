"""The encoder of MAE: a plain ViT that sees a part of the patches, each at its place."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from castling_det.errors import InputError
from castling_det.models.attention import Grid, VisibleGrid
from castling_det.models.vit import CastlingViT


@MODELS.register_module()
class CastlingMAEViT(CastlingViT):
    """``CastlingViT`` as the encoder of mmpretrain's ``MAE`` (arXiv 2111.06377).

    ``forward`` differs: of each image a random part of the patches goes through the blocks. They
    are shuffled, so the attention is told their places, and its convolution sees the neighbours
    that a token has on the whole grid, zeros for the hidden ones. The class token stays out of it.
    The initialisation is MAE's too: positions are sines and cosines, and stay so while it trains.
    With softmax attention it is mmpretrain's ``MAEViT``.

    The weights are those of ``CastlingViT``, which reads them from MAE's file by
    ``init_cfg=dict(type='Pretrained', checkpoint=FILE, prefix='backbone')`` and trains the
    positions with the rest.

    Args:
        arch, attn, softmax_blocks, pos_grid, with_cp, init_cfg: As for :class:`CastlingViT`.
        mask_ratio (float): Share of the patches that is hidden. Defaults to 0.75.

    Raises:
        InputError: As :class:`CastlingViT`, and for a ``mask_ratio`` that is no share under 1.
    """

    def __init__(
        self,
        arch: str | dict = 'deit-base',
        attn: dict = dict(type='CastlingAttention'),
        softmax_blocks: tuple[int, ...] = (),
        pos_grid: int | Grid = 14,
        mask_ratio: float = 0.75,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            arch, attn, softmax_blocks, pos_grid=pos_grid, with_cp=with_cp, init_cfg=init_cfg
        )
        if not 0 <= mask_ratio < 1:
            raise InputError(f'mask_ratio is a share from 0 to under 1, not {mask_ratio}')
        self.mask_ratio = mask_ratio
        positions, filters = self.embed.pos_embed.requires_grad_(False), self.embed.proj.weight
        positions.copy_(wave_positions(*positions.shape[1:]))
        nn.init.xavier_uniform_(filters.flatten(1))

    def forward(
        self, x: Tensor, mask: bool | None = True
    ) -> tuple[Tensor, Tensor, Tensor] | tuple[Tensor, ...]:
        """Encode the visible patches; or, without ``mask``, be :class:`CastlingViT`.

        Args:
            x (Tensor): ``(B, 3, H, W)``.
            mask (bool, optional): Whether to hide patches. Defaults to True.

        Returns:
            tuple[Tensor, Tensor, Tensor]: The class token and the visible ones ``(B, 1 + n, C)``;
            1 for each hidden patch and 0 for each visible one, ``(B, N)``; and where each patch
            stands among the visible and then the hidden ones, ``(B, N)``.
        """
        if not mask:
            return super().forward(x)
        x, hw = self.embed(x)
        cls_token, patches = x[:, :1], x[:, 1:]
        num_patches = patches.shape[1]
        num_visible = int(num_patches * (1 - self.mask_ratio))
        order = torch.rand(patches.shape[:2], device=x.device).argsort(dim=1)
        ids_restore, places = order.argsort(dim=1), order[:, :num_visible]
        visible = patches.gather(1, places[..., None].expand(-1, -1, patches.shape[2]))
        latent = self.through_blocks(torch.cat((cls_token, visible), 1), VisibleGrid(hw, places))
        return latent[-1], (ids_restore >= num_visible).float(), ids_restore


def wave_positions(dims: int, height: int, width: int) -> Tensor:
    """Sine and cosine of the row, then of the column, at dims / 4 wavelengths: ``(1, C, h, w)``.

    The wavelengths are from 2 pi to nearly 10,000 times that, in tokens, as in MAE.
    """
    frequencies = 10000 ** -torch.linspace(0, 1, dims // 4 + 1)[:-1, None]
    rows, cols = (torch.arange(n) * frequencies for n in (height, width))  # (C / 4, n) each
    rows, cols = (torch.cat((angles.sin(), angles.cos())) for angles in (rows, cols))
    rows, cols = rows[:, :, None].expand(-1, -1, width), cols[:, None].expand(-1, height, -1)
    return torch.cat((rows, cols))[None]
