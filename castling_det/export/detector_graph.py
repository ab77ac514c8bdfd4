"""What goes into a file of a detector: all between RGB pixels and boxes, short of NMS."""

import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from mmdet.models import SingleStageDetector
from torch import Tensor

from castling_det.errors import InputError
from castling_det.export.box_decoding import by_coder, decoder_of
from castling_det.export.graph import Graph


class DetectorGraph(Graph):
    """RGB pixels to the maps of a one-stage head, or to its boxes.

    Args:
        detector (SingleStageDetector): In eval mode; it is not copied.
        decodes (bool): Boxes and scores, or the head's maps.

    Raises:
        InputError: If the head is none that :mod:`~castling_det.export.box_decoding` knows, or if
            there are deformable convolutions.
    """

    task = 'detection'

    def __init__(self, detector: SingleStageDetector, decodes: bool) -> None:
        decoder = decoder_of(detector)
        for name, module in detector.named_modules():
            if isinstance(module, DeformConv2d | ModulatedDeformConv2d):
                raise InputError(f'{name}: deformable convolutions are not exported')
        preprocessor = detector.data_preprocessor
        super().__init__(detector, decodes, preprocessor.pad_size_divisor, preprocessor.pad_value)
        self.decoder = decoder
        self.kinds = self._kinds_of_maps()

    @torch.no_grad()
    def _kinds_of_maps(self) -> tuple[str, ...]:
        side = max(self.strides)
        maps = self._maps(torch.zeros(1, 3, side, side))
        return ('scores', 'boxes', 'factors')[: len(maps) // len(self.strides)]

    @property
    def strides(self) -> list[int]:
        """Strides of the levels, in px."""
        return [stride for stride, _ in self.model.bbox_head.prior_generator.strides]

    @property
    def has_factors(self) -> bool:
        """Whether boxes and scores come with factors, by which the scores are to be multiplied."""
        return self.decoder is by_coder and 'factors' in self.kinds

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Names of what :meth:`forward` returns, and of its dimensions."""
        if self.decodes:
            kinds = ('boxes', 'scores', 'factors') if self.has_factors else ('boxes', 'scores')
            return dict.fromkeys(kinds, ('batch', 'cells'))
        return {
            f'{kind}_{stride}': ('batch', '', f'h{stride}', f'w{stride}')
            for kind in self.kinds
            for stride in self.strides
        }

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect, short of NMS.

        Args:
            image (Tensor): ``(B, 3, H, W)``, float32, RGB, 0 to 255.

        Returns:
            tuple[Tensor]: Float32: boxes ``(B, N, 4)``, x1, y1, x2, y2 in px of the image, scores
            ``(B, N, classes)`` and, of some heads, factors of them ``(B, N, 1)``; or, not decoded,
            the head's maps of each level, in the order of :attr:`outputs`.
        """
        maps = self._maps(image)
        return self.decode(maps, *image.shape[-2:]) if self.decodes else tuple(maps)

    def _maps(self, image: Tensor) -> list[Tensor]:
        kinds = self.model.bbox_head(self.model.extract_feat(self.prepare(image)))
        return [level.float() for kind in kinds for level in kind]

    def decode(self, maps: list[Tensor], height: int, width: int) -> tuple[Tensor, ...]:
        """Boxes, scores and, of some heads, factors from undecoded maps."""
        levels = len(self.strides)
        kinds = [maps[i : i + levels] for i in range(0, len(maps), levels)]
        return self.decoder(self.model.bbox_head, (height, width), *kinds)
