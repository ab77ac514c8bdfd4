"""What MMSegmentation 1.x lacks: importing this package (it needs mmseg and mmdet) registers it."""

from .overlay import LegendVisualizer, OverlayHook
from .simple_feature_pyramid import SimpleFeaturePyramid
from .sliding_mask2former_head import SlidingMask2FormerHead

__all__ = ['LegendVisualizer', 'OverlayHook', 'SimpleFeaturePyramid', 'SlidingMask2FormerHead']
