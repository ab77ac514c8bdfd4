"""PicoDet for MMDetection 3.x: importing this package (it needs mmdet) registers its parts."""

from .lc_pan import LCPAN
from .lcnet import LCNet
from .pico_head import PicoHead

__all__ = ['LCNet', 'LCPAN', 'PicoHead']
