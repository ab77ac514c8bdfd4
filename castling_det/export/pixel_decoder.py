"""Mask2Former's pixel decoder for maps whose size is open.

mmdet's takes the sizes of maps as tensors, and numbers out of them again, which torch.export cannot
follow. Here the same layers run with sizes that are numbers all the way, and sample in mmcv's form
of the deformable attention, whose operators ONNX has.
"""

from inspect import unwrap

import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from mmdet.models.layers import MSDeformAttnPixelDecoder
from torch import Tensor, nn
from torch.nn import functional as F

Grid = tuple[int, int]


class PixelDecoder(nn.Module):
    """An ``MSDeformAttnPixelDecoder`` in eval mode.

    Args:
        trained (MSDeformAttnPixelDecoder): Its layers are used.
    """

    def __init__(self, trained: MSDeformAttnPixelDecoder) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Decode a pyramid.

        Args:
            maps (tuple[Tensor, ...]): ``(B, C_i, h_i, w_i)``, from fine to coarse.

        Returns:
            tuple[Tensor, list[Tensor]]: Mask features ``(B, C, h_0, w_0)``, and maps from coarse to
            fine, ``(B, C, h_i, w_i)``.
        """
        layers = self.trained
        num_fine = layers.num_input_levels - layers.num_encoder_levels
        fine, coarse = maps[:num_fine], maps[num_fine:][::-1]
        grids = [(x.shape[2], x.shape[3]) for x in coarse]
        projected = [conv(x) for conv, x in zip(layers.input_convs, coarse, strict=True)]
        levels = layers.level_encoding.weight[:, :, None, None]
        no_padding = [torch.zeros_like(x[:, 0], dtype=torch.bool) for x in projected]
        positions = [
            level + layers.postional_encoding(mask).to(level.dtype)
            for level, mask in zip(levels, no_padding, strict=True)
        ]
        x, position = _pixels(projected), _pixels(positions)
        centres = torch.cat([_centres(grid, x.device) for grid in grids])
        for layer in layers.encoder.layers:
            x = layer.norms[0](x + _attend(layer.self_attn, x, x + position, centres, grids))
            x = layer.norms[1](layer.ffn(x))
        parts = x.split([height * width for height, width in grids], dim=1)
        outs = [x.transpose(1, 2).unflatten(2, grid) for x, grid in zip(parts, grids, strict=True)]
        for i in reversed(range(num_fine)):
            x = layers.lateral_convs[i](fine[i])
            x = x + F.interpolate(outs[-1], x.shape[-2:], mode='bilinear', align_corners=False)
            outs.append(layers.output_convs[i](x))
        return layers.mask_feature(outs[-1]), outs[: layers.num_outs]


def open_pixel_decoders(model: nn.Module) -> None:
    """Replace the pixel decoder of every Mask2Former head, in place."""
    for head in list(model.modules()):
        if isinstance(getattr(head, 'pixel_decoder', None), MSDeformAttnPixelDecoder):
            head.pixel_decoder = PixelDecoder(head.pixel_decoder)
            head.decoder_positional_encoding.register_forward_hook(
                lambda _, mask, position, like=head.query_embed: position.to(like.weight.dtype)
            )


def _attend(
    layers: MultiScaleDeformableAttention,
    x: Tensor,
    placed: Tensor,
    centres: Tensor,
    grids: list[Grid],
) -> Tensor:
    """Attend to a few points of every level; they are placed, sampled and summed in float32.

    Args:
        layers (MultiScaleDeformableAttention): Its layers are used.
        x (Tensor): ``(B, N, C)``, the pixels of all levels.
        placed (Tensor): The same with their positions.
        centres (Tensor): ``(N, 2)``, x and y of each pixel in shares of its map.
        grids (list[tuple[int, int]]): Height and width of each level.

    Returns:
        Tensor: ``(B, N, C)``.
    """
    heads, levels, points = layers.num_heads, layers.num_levels, layers.num_points
    values = layers.value_proj(x).unflatten(-1, (heads, -1)).float()
    weights = layers.attention_weights(placed).unflatten(-1, (heads, -1)).float().softmax(-1)
    offsets = layers.sampling_offsets(placed).unflatten(-1, (heads, levels, points, 2)).float()
    locations = []
    for level, (height, width) in enumerate(grids):
        right, down = offsets[:, :, :, level].unbind(-1)
        offset = torch.stack((right / width, down / height), dim=-1)
        locations.append(centres[:, None, None] + offset)
    weights = weights.unflatten(-1, (levels, points))
    sampled = unwrap(multi_scale_deformable_attn_pytorch)(
        values, grids, torch.stack(locations, dim=3), weights
    )
    return layers.output_proj(sampled.to(x.dtype))


def _pixels(maps: list[Tensor]) -> Tensor:
    """Maps ``(B, C, h, w)`` to their pixels one after the other, ``(B, N, C)``."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


def _centres(grid: Grid, device: torch.device) -> Tensor:
    """``(h * w, 2)``: x and y of each pixel's centre in shares of the map."""
    y, x = ((torch.arange(length, device=device) + 0.5) / length for length in grid)
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1).flatten(0, 1)
