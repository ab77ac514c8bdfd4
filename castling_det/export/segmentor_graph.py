"""What goes into a file of a segmentor: all between RGB pixels and the label map. Needs mmseg."""

from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from castling_det.export.graph import Graph


class SegmentorGraph(Graph):
    """RGB pixels to the logits of an :class:`EncoderDecoder`, or to its label map.

    Args:
        segmentor (EncoderDecoder): In eval mode; it is not copied.
        decodes (bool): The label map, or the logits.

    Raises:
        ValueError: If the model is another one, or predicts in sliding windows, or if images are
            padded to a fixed size, or not normalised as RGB.
    """

    def __init__(self, segmentor: EncoderDecoder, decodes: bool) -> None:
        head = segmentor.decode_head
        if hasattr(head, 'pixel_decoder'):
            raise ValueError(
                f'{type(head).__name__} is not exported: its pixel decoder makes tensors of the '
                'sizes of maps (torch._shape_as_tensor), and takes sizes out of them again, which '
                'torch.export cannot record'
            )
        if type(segmentor).encode_decode is not EncoderDecoder.encode_decode or (
            getattr(type(head), 'predict', None) is not BaseDecodeHead.predict
        ):
            raise ValueError(
                'only segmentors whose head gives a map of logits are exported, not '
                f'{type(segmentor).__name__} with {type(head).__name__}'
            )
        if head.out_channels == 1:
            raise ValueError('a head with out_channels=1 is not exported: take out_channels=2')
        if segmentor.test_cfg.mode != 'whole':
            raise ValueError(
                "files take images as a whole, but the config's test takes sliding windows: pass "
                '--cfg-options model.test_cfg.mode=whole'
            )
        padding = segmentor.data_preprocessor.test_cfg or dict(size_divisor=1)
        if 'size_divisor' not in padding:
            raise ValueError(
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

    def logits(self, image: Tensor) -> Tensor:
        """``(B, classes, H, W)``, float32, as large as the image."""
        height, width = image.shape[-2:]
        x = self.prepare(image)
        maps = self.model.decode_head(self.model.extract_feat(x)).float()
        padded = dict(img_shape=tuple(x.shape[-2:]), pad_shape=tuple(x.shape[-2:]))
        return self.model.decode_head.predict_by_feat(maps, [padded])[..., :height, :width]
