"""PicoDet for MMDetection 3.x: importing this package (it needs mmdet) registers its parts.

With them come the image loading and the visualizer of the detectors' configs.
"""

from castling_det.datasets.loading import LoadReadableImage
from castling_det.inference.pictures import LegibleVisualizer

from .lc_pan import LCPAN
from .lcnet import LCNet
from .pico_head import PicoHead

__all__ = ['LCNet', 'LCPAN', 'LegibleVisualizer', 'LoadReadableImage', 'PicoHead']
