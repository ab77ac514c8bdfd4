"""What MMSegmentation 1.x lacks: importing this package (it needs mmseg and mmdet) registers it."""

from castling_det.visualization.hooks import OverlayHook
from castling_det.visualization.label_maps import LegendVisualizer

from .sliding_mask2former_head import SlidingMask2FormerHead

__all__ = ['LegendVisualizer', 'OverlayHook', 'SlidingMask2FormerHead']
