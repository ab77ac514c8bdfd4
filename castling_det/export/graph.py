"""What goes into a file of a detector: all between RGB pixels and boxes, short of NMS."""

from copy import deepcopy

import torch
from mmdet.models import SingleStageDetector
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.castle import castle, fold_batch_norms
from castling_det.models.attention import CastlingAttention
from castling_det.picodet import PicoHead

EXAMPLE_SHAPE = (2, 3, 135, 203)  # nothing divides evenly: sizes that do can look like fixed ones


class DetectorGraph(nn.Module):
    """RGB pixels to the maps of a :class:`PicoHead`, or to its boxes.

    Pixels are normalised, and padded at the right and bottom, as ``data_preprocessor`` does. Both
    that and decoding are in float32, whatever the dtype of the network.

    Args:
        detector (SingleStageDetector): In eval mode; it is not copied.
        decodes (bool): Boxes and scores, or the head's maps.

    Raises:
        ValueError: If the head is another one, or images are not normalised as RGB.
    """

    def __init__(self, detector: SingleStageDetector, decodes: bool) -> None:
        super().__init__()
        head, preprocessor = getattr(detector, 'bbox_head', None), detector.data_preprocessor
        if not isinstance(head, PicoHead):
            raise ValueError(
                f'only detectors with PicoHead are exported, not {type(detector).__name__} with '
                f'{type(head).__name__}'
            )
        if not (preprocessor._channel_conversion and preprocessor._enable_normalize):
            raise ValueError(
                'files take RGB pixels: model.data_preprocessor needs mean, std and bgr_to_rgb=True'
            )
        self.detector, self.decodes = detector, decodes
        self.pad_size_divisor = preprocessor.pad_size_divisor
        self.pad_value = preprocessor.pad_value
        self.register_buffer('mean', preprocessor.mean.float())
        self.register_buffer('std', preprocessor.std.float())

    @property
    def strides(self) -> list[int]:
        """Strides of the levels, in px."""
        return [stride for stride, _ in self.detector.bbox_head.prior_generator.strides]

    @property
    def output_names(self) -> list[str]:
        """Names of what :meth:`forward` returns."""
        if self.decodes:
            return ['boxes', 'scores']
        return [f'{kind}_{stride}' for kind in ('scores', 'distances') for stride in self.strides]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect, short of NMS.

        Args:
            image (Tensor): ``(B, 3, H, W)``, float32, RGB, 0 to 255.

        Returns:
            tuple[Tensor]: Float32: boxes ``(B, N, 4)``, x1, y1, x2, y2 in px of the image, and
            scores ``(B, N, classes)``; or, not decoded, of each level the scores
            ``(B, classes, h, w)``, then the logits of the distances ``(B, 4 * bins, h, w)``.
        """
        height, width = image.shape[-2:]
        x = (image - self.mean) / self.std
        right, bottom = -width % self.pad_size_divisor, -height % self.pad_size_divisor
        x = F.pad(x, (0, right, 0, bottom), value=self.pad_value)
        x = x.to(next(self.detector.parameters()).dtype)
        scores, logits = self.detector.bbox_head(self.detector.extract_feat(x))
        maps = [level.float() for level in (*scores, *logits)]
        return self.decode(maps, height, width) if self.decodes else tuple(maps)

    def decode(self, maps: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Boxes, clipped to ``height`` and ``width``, and scores from undecoded maps."""
        scores, logits = (
            [level.flatten(2).transpose(1, 2) for level in kind]
            for kind in (maps[: len(self.strides)], maps[len(self.strides) :])
        )
        boxes = torch.cat(
            [
                self.detector.bbox_head.decode(level, self._centers(grid, stride), stride)
                for level, grid, stride in zip(logits, maps, self.strides, strict=False)
            ],
            dim=1,
        )
        # PicoHead.decode can clip too, but mmdet makes constants of the sizes while it is traced.
        x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
        return torch.stack((x, y), dim=-1).flatten(-2), torch.cat(scores, dim=1)

    def _centers(self, level: Tensor, stride: int) -> Tensor:
        """``(h * w, 2)``, x and y in px, of a map's cells."""
        offset = self.detector.bbox_head.prior_generator.center_offset
        rows, cols = (
            (torch.arange(n, dtype=torch.float32, device=level.device) + offset) * stride
            for n in level.shape[-2:]
        )
        return torch.stack(torch.meshgrid(cols, rows, indexing='xy'), dim=-1).flatten(0, 1)


def graphs(
    detector: SingleStageDetector, decodes: bool, half: bool
) -> tuple[DetectorGraph, DetectorGraph]:
    """The detector as it was trained, in float32, and what is shipped of it; both are copies.

    What is shipped is castled, with its batch norms folded.

    Args:
        detector (SingleStageDetector): In eval mode.
        decodes (bool): See :class:`DetectorGraph`.
        half (bool): Weights and activations of what is shipped in float16; linear-angular attention
            computes its norms and sums in float32 by itself.
    """
    trained = DetectorGraph(deepcopy(detector), decodes).eval().requires_grad_(False)
    shipped = deepcopy(trained)
    if any(isinstance(module, CastlingAttention) for module in shipped.modules()):
        castle(shipped, fold_bn=True)
    else:
        fold_batch_norms(shipped)
    if half:
        shipped.detector.half()
    return trained, shipped
