"""From the maps of mmdet's one-stage heads to boxes and scores, by the heads' own parts.

A decoder takes a head, height and width of the image in px, and the head's maps by kind, each a
list over the levels of ``(B, channels, h, w)``, float32. It gives boxes ``(B, N, 4)`` in px, scores
``(B, N, classes)`` and, of some heads, factors ``(B, N, 1)``, by which mmdet multiplies the scores
once it has left out those below the threshold.
"""

from collections.abc import Callable

import torch
from mmdet.models import SingleStageDetector
from mmdet.models.dense_heads import GFLHead, TOODHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor

from castling_det.detection import PicoHead
from castling_det.errors import InputError

Maps = list[Tensor]
Size = tuple[int, int]
Decoder = Callable[..., tuple[Tensor, ...]]


def decoder_of(detector: SingleStageDetector) -> Decoder:
    """What makes boxes of a detector's maps.

    Raises:
        InputError: If its head predicts in another way than those that are known here.
    """
    head = getattr(detector, 'bbox_head', None)
    predicts = getattr(type(head), 'predict_by_feat', None)
    if predicts is BaseDenseHead.predict_by_feat:
        predicts = type(head)._predict_by_feat_single
    is_plain = getattr(type(detector), 'predict', None) is SingleStageDetector.predict
    if not is_plain or predicts not in DECODERS:
        raise InputError(
            f'{type(detector).__name__} with {type(head).__name__ if head else "no bbox_head"} is '
            'not exported, but one-stage detectors that predict as PicoDet, RetinaNet, FCOS, ATSS, '
            'GFL, TOOD, RTMDet or YOLOX do; two-stage detectors and DETRs are not'
        )
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        raise InputError(f'scores as {type(head.loss_cls).__name__} makes them are not exported')
    return DECODERS[predicts]


def by_coder(
    head: BaseDenseHead, size: Size, logits: Maps, deltas: Maps, factors: Maps | None = None
) -> tuple[Tensor, ...]:
    """RetinaNet, FCOS, ATSS, RTMDet: the head's coder takes deltas or distances."""
    boxes = _coded(head, size, _priors(head, logits), _rows(deltas, head.bbox_coder.encode_size))
    scores = _rows(logits, head.cls_out_channels)
    scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(dim=-1)[..., :-1]
    return boxes, scores, *(() if factors is None else (_rows(factors, 1).sigmoid(),))


def by_integral(
    head: GFLHead, size: Size, logits: Maps, distributions: Maps
) -> tuple[Tensor, Tensor]:
    """GFL: a distance, in strides, is the mean of a distribution."""
    rows = _rows(distributions, 4 * (head.reg_max + 1))
    distances = head.integral(rows).unflatten(0, rows.shape[:2]) * _strides(head, logits)
    boxes = _coded(head, size, head.anchor_center(_priors(head, logits)), distances)
    return boxes, _rows(logits, head.cls_out_channels).sigmoid()


def by_pico_head(
    head: PicoHead, size: Size, scores: Maps, distributions: Maps
) -> tuple[Tensor, Tensor]:
    """PicoDet: likewise, around the centres of cells."""
    centers = head.anchor_center(_priors(head, scores))
    boxes = head.decode(
        _rows(distributions, 4 * (head.reg_max + 1)), centers, _strides(head, scores)
    )
    return _clipped(boxes, size), _rows(scores, head.cls_out_channels)


def by_stride(head: TOODHead, size: Size, scores: Maps, boxes: Maps) -> tuple[Tensor, Tensor]:
    """TOOD: the maps are boxes, in strides, and scores; boxes reach beyond the image."""
    return _rows(boxes, 4) * _strides(head, scores), _rows(scores, head.cls_out_channels)


def by_cell(
    head: YOLOXHead, size: Size, logits: Maps, deltas: Maps, objects: Maps
) -> tuple[Tensor, Tensor]:
    """YOLOX: around corners of cells; boxes reach beyond the image."""
    priors = torch.cat((_priors(head, logits), *[_strides(head, logits)] * 2), dim=1)
    boxes = head._bbox_decode(priors, _rows(deltas, 4))
    return boxes, _rows(logits, head.cls_out_channels).sigmoid() * _rows(objects, 1).sigmoid()


DECODERS: dict[Callable, Decoder] = {  # by the method with which a head does it in mmdet
    BaseDenseHead._predict_by_feat_single: by_coder,
    GFLHead._predict_by_feat_single: by_integral,
    PicoHead._predict_by_feat_single: by_pico_head,
    TOODHead._predict_by_feat_single: by_stride,
    YOLOXHead.predict_by_feat: by_cell,
}


def _rows(maps: Maps, channels: int) -> Tensor:
    """``(B, anchors * channels, h, w)`` of all levels to ``(B, N, channels)``."""
    batch = maps[0].shape[0]
    return torch.cat([x.permute(0, 2, 3, 1).reshape(batch, -1, channels) for x in maps], dim=1)


def _priors(head: BaseDenseHead, maps: Maps) -> Tensor:
    """Anchors ``(N, 4)`` or points ``(N, 2)``, in px."""
    sizes = [x.shape[-2:] for x in maps]
    return torch.cat(head.prior_generator.grid_priors(sizes, maps[0].dtype, maps[0].device))


def _strides(head: BaseDenseHead, maps: Maps) -> Tensor:
    """``(N, 1)``, in px, of the cells of all levels."""
    strides = head.prior_generator.strides
    levels = zip(maps, strides, strict=True)
    return torch.cat([x.new_full((x[0, 0].numel(), 1), stride) for x, (stride, _) in levels])


def _coded(head: BaseDenseHead, size: Size, priors: Tensor, rows: Tensor) -> Tensor:
    """Boxes by the head's coder, which takes as many priors as rows."""
    batch = rows.shape[0]
    boxes = head.bbox_coder.decode(priors.repeat(batch, 1), rows.flatten(0, 1))
    boxes = boxes.reshape(batch, -1, 4)
    return _clipped(boxes, size) if head.bbox_coder.clip_border else boxes


def _clipped(boxes: Tensor, size: Size) -> Tensor:
    """``(B, N, 4)`` within height and width."""
    # Coders can clip too, but mmdet makes constants of the sizes while it is traced.
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x, y), dim=-1).flatten(-2)
