"""PicoDet for MMDetection 3.x: importing this package (it needs mmdet) registers neck and head."""

from .lc_pan import LCPAN
from .pico_head import PicoHead

__all__ = ['LCPAN', 'PicoHead']
