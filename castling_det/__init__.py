"""Castling-ViT attention, backbones and training hooks for the OpenMMLab detectors and segmentors.

Importing this package registers everything that needs torch and mmengine alone in mmengine's root
registries, so that a plain type name works from mmdet, mmseg and mmpretrain configs. The PicoDet
neck and head need mmdet; ``castling_det.picodet`` registers them.
"""

from .config_bases import know_our_configs
from .mmcv_ops import add_finder

know_our_configs()
add_finder()

from . import hooks, layer_decay, models  # noqa: E402
from .castle import castle, training_form  # noqa: E402

__version__ = '0.1.0'
__all__ = ['castle', 'hooks', 'layer_decay', 'models', 'training_form', '__version__']
