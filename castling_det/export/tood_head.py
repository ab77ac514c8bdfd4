"""TOOD's head for maps and batches whose size is open.

mmdet's repeats anchors as often as the batch says, which torch.export would fix, and samples boxes
by a deformable convolution, which opset 18 lacks. Here the same layers run without either.
"""

from functools import partial

import torch
from mmdet.models.dense_heads import TOODHead
from mmdet.models.dense_heads.tood_head import TaskDecomposition
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.detection import PicoHead


def open_tood_heads(model: nn.Module) -> None:
    """Replace what TOOD's heads do with maps, in place; the layers stay where they are."""
    for head in model.modules():
        if isinstance(head, TOODHead) and not isinstance(head, PicoHead):
            head.forward = partial(_forward, head)


def _forward(head: TOODHead, maps: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """As ``TOODHead.forward``: scores, and boxes in strides, of each level."""
    levels = [_level(head, level, x) for level, x in enumerate(maps)]
    return [scores for scores, _ in levels], [boxes for _, boxes in levels]


def _level(head: TOODHead, level: int, x: Tensor) -> tuple[Tensor, Tensor]:
    shared = []
    for conv in head.inter_convs:
        x = conv(x)
        shared.append(x)
    feature = torch.cat(shared, dim=1)
    mean = feature.mean(dim=(2, 3), keepdim=True)
    logits = head.tood_cls(_decomposed(head.cls_decomp, feature, mean))
    scores = (logits.sigmoid() * head.cls_prob_module(feature).sigmoid()).sqrt()
    sides = head.tood_reg(_decomposed(head.reg_decomp, feature, mean))
    boxes = _boxes(head, level, sides)
    moved = _sampled(boxes, head.reg_offset_module(feature))
    is_invalid = (moved[:, :2] > moved[:, 2:]).any(dim=1, keepdim=True)
    return scores, torch.where(is_invalid, boxes, moved)


def _decomposed(decomposition: TaskDecomposition, feature: Tensor, mean: Tensor) -> Tensor:
    """Each part of the feature weighted for the task, then reduced to as many channels as one."""
    weight = decomposition.layer_attention(mean)  # (B, parts, 1, 1)
    parts = feature.unflatten(1, (decomposition.stacked_convs, -1)) * weight[:, :, None]
    return decomposition.reduction_conv(parts.flatten(1, 2))


def _boxes(head: TOODHead, level: int, sides: Tensor) -> Tensor:
    """``(B, 4, h, w)``, in strides, before they are moved."""
    stride, _ = head.prior_generator.strides[level]
    batch, _, height, width = sides.shape
    is_free = head.anchor_type == 'anchor_free'
    sides = head.scales[level](sides.exp() if is_free else sides).float()
    priors = head.prior_generator.single_level_grid_priors(
        (height, width), level, sides.dtype, sides.device
    ).repeat(batch, 1)
    rows = sides.permute(0, 2, 3, 1).reshape(-1, 4)
    if is_free:
        boxes = distance2bbox(head.anchor_center(priors) / stride, rows)
    else:
        boxes = head.bbox_coder.decode(priors, rows) / stride
    return boxes.reshape(batch, height, width, 4).permute(0, 3, 1, 2)


def _sampled(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Each side of the boxes ``(B, 4, h, w)`` at a place of its own, bilinearly, 0 outside.

    Args:
        boxes (Tensor): ``(B, 4, h, w)``.
        offsets (Tensor): ``(B, 8, h, w)``, down and right, in cells, for each side.
    """
    batch, _, height, width = boxes.shape
    down, right = offsets.to(boxes.dtype).unflatten(1, (4, 2)).unbind(dim=2)
    y = torch.arange(height, device=boxes.device)[:, None] + down
    x = torch.arange(width, device=boxes.device) + right
    places = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    planes = boxes.reshape(-1, 1, height, width)
    sampled = F.grid_sample(planes, places.flatten(0, 1), align_corners=False)
    return sampled.reshape(batch, 4, height, width)
