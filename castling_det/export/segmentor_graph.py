"""What goes into a file of a segmentor: all between RGB pixels and the label map. Needs mmseg."""

import torch
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor
from torch.nn import functional as F

from castling_det.errors import InputError
from castling_det.export.graph import Graph


class SegmentorGraph(Graph):
    """RGB pixels to the logits of an :class:`EncoderDecoder`, or to its label map.

    It takes an image as a whole. Where the config's test takes sliding windows, it is the graph of
    one window, and ``run_onnx.py`` averages their logits.

    Args:
        segmentor (EncoderDecoder): In eval mode; it is not copied.
        decodes (bool): The label map, or the logits.

    Raises:
        InputError: If the model is another one, or if images are padded to a fixed size.
    """

    task = 'segmentation'

    def __init__(self, segmentor: EncoderDecoder, decodes: bool) -> None:
        head = segmentor.decode_head
        self.is_mask2former = isinstance(head, Mask2FormerHead)
        gives_logits = getattr(type(head), 'predict', None) is BaseDecodeHead.predict
        if type(segmentor).encode_decode is not EncoderDecoder.encode_decode or not (
            gives_logits or self.is_mask2former
        ):
            raise InputError(
                'only segmentors with Mask2Former, or whose head gives a map of logits, are '
                f'exported, not {type(segmentor).__name__} with {type(head).__name__}'
            )
        if head.out_channels == 1:
            raise InputError('a head with out_channels=1 is not exported: take out_channels=2')
        padding = segmentor.data_preprocessor.test_cfg or dict(size_divisor=1)
        if 'size_divisor' not in padding:
            raise InputError(
                'files pad to multiples, but model.data_preprocessor.test_cfg has no size_divisor'
            )
        pad_value = segmentor.data_preprocessor.pad_val
        super().__init__(segmentor, decodes, padding['size_divisor'], pad_value)

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Names of what :meth:`forward` returns, and of its dimensions."""
        if self.decodes:
            return dict(labels=('batch', 'height', 'width'))
        return dict(logits=('batch', '', 'height', 'width'))

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Segment.

        Args:
            image (Tensor): ``(B, 3, H, W)``, float32, RGB, 0 to 255.

        Returns:
            tuple[Tensor]: Labels ``(B, H, W)``, int64; or, not decoded, :meth:`logits`.
        """
        logits = self.logits(image)
        return (logits.argmax(dim=1) if self.decodes else logits,)

    def undecided(self, image: Tensor) -> tuple[Tensor]:
        """As ``forward`` without ``decodes``."""
        return (self.logits(image),)

    def logits(self, image: Tensor) -> Tensor:
        """``(B, classes, H, W)``, float32, as large as the image; Mask2Former's are scores."""
        height, width = image.shape[-2:]
        x = self.prepare(image)
        size, head = tuple(x.shape[-2:]), self.model.decode_head
        maps = self.model.extract_feat(x)
        if self.is_mask2former:
            logits = _sum_of_masks(*head(maps, None), size)
        else:
            logits = head.predict_by_feat(
                head(maps).float(), [dict(img_shape=size, pad_shape=size)]
            )
        return logits[..., :height, :width]


def _sum_of_masks(classes: list[Tensor], masks: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Each query's mask times its probabilities of the classes, as mmseg's head predicts.

    Args:
        classes (list[Tensor]): Of each layer of the decoder ``(B, Q, K + 1)``, the last of them no
            class.
        masks (list[Tensor]): Of each layer ``(B, Q, h, w)``.
        size (tuple[int, int]): H and W.

    Returns:
        Tensor: ``(B, K, H, W)``, float32.
    """
    probabilities = classes[-1].float().softmax(dim=-1)[..., :-1]
    grown = F.interpolate(masks[-1].float(), size, mode='bilinear', align_corners=False)
    return torch.einsum('bqk,bqhw->bkhw', probabilities, grown.sigmoid())
