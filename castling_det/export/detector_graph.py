"""What goes into a file of a detector: all between RGB pixels and boxes, short of NMS."""

import torch
from mmdet.models import SingleStageDetector
from torch import Tensor

from castling_det.detection import PicoHead
from castling_det.errors import InputError
from castling_det.export.graph import Graph


class DetectorGraph(Graph):
    """RGB pixels to the maps of a :class:`PicoHead`, or to its boxes.

    Args:
        detector (SingleStageDetector): In eval mode; it is not copied.
        decodes (bool): Boxes and scores, or the head's maps.

    Raises:
        InputError: If the head is another one, or images are not normalised as RGB.
    """

    task = 'detection'

    def __init__(self, detector: SingleStageDetector, decodes: bool) -> None:
        head, preprocessor = getattr(detector, 'bbox_head', None), detector.data_preprocessor
        if not isinstance(head, PicoHead):
            raise InputError(
                f'only detectors with PicoHead are exported, not {type(detector).__name__} with '
                f'{type(head).__name__}'
            )
        super().__init__(detector, decodes, preprocessor.pad_size_divisor, preprocessor.pad_value)

    @property
    def strides(self) -> list[int]:
        """Strides of the levels, in px."""
        return [stride for stride, _ in self.model.bbox_head.prior_generator.strides]

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Names of what :meth:`forward` returns, and of its dimensions."""
        if self.decodes:
            return dict(boxes=('batch', 'cells'), scores=('batch', 'cells'))
        return {
            f'{kind}_{stride}': ('batch', '', f'h{stride}', f'w{stride}')
            for kind in ('scores', 'distances')
            for stride in self.strides
        }

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
        scores, logits = self.model.bbox_head(self.model.extract_feat(self.prepare(image)))
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
                self.model.bbox_head.decode(level, self._centers(grid, stride), stride)
                for level, grid, stride in zip(logits, maps, self.strides, strict=False)
            ],
            dim=1,
        )
        # PicoHead.decode can clip too, but mmdet makes constants of the sizes while it is traced.
        x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
        return torch.stack((x, y), dim=-1).flatten(-2), torch.cat(scores, dim=1)

    def _centers(self, level: Tensor, stride: int) -> Tensor:
        """``(h * w, 2)``, x and y in px, of a map's cells."""
        offset = self.model.bbox_head.prior_generator.center_offset
        rows, cols = (
            (torch.arange(n, dtype=torch.float32, device=level.device) + offset) * stride
            for n in level.shape[-2:]
        )
        return torch.stack(torch.meshgrid(cols, rows, indexing='xy'), dim=-1).flatten(0, 1)
