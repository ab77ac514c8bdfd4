"""PicoDet for MMDetection 3.x: importing this package (it needs mmdet) registers its parts.

With them come the image loading, the visualizer and the pictures of the detectors' configs.
"""

from castling_det.datasets.loading import LoadReadableImage
from castling_det.models.lcnet import LCNet
from castling_det.visualization.boxes import LegibleVisualizer
from castling_det.visualization.hooks import OverlayHook

from .lc_pan import LCPAN
from .pico_head import PicoHead

__all__ = ['LCNet', 'LCPAN', 'LegibleVisualizer', 'LoadReadableImage', 'OverlayHook', 'PicoHead']
