"""Castling-ViT attention, backbones and training hooks for the OpenMMLab detectors and segmentors.

Importing this package registers everything that needs torch and mmengine alone in mmengine's root
registries, so that a plain type name works from mmdet, mmseg and mmpretrain configs. The PicoDet
neck and head need mmdet; ``castling_det.picodet`` registers them.
"""

from mmengine.config.utils import MODULE2PACKAGE

from .mmcv_ops import add_finder

# `_base_ = 'castling_det::...'` and `'mmseg::...'`: mmengine reads bases before `custom_imports`
# and knows only its own list, in which mmseg has the name of another distribution.
MODULE2PACKAGE.update(castling_det='castling_det', mmseg='mmseg')
add_finder()

from . import hooks, models  # noqa: E402
from .castle import training_form  # noqa: E402

__version__ = '0.1.0'
__all__ = ['hooks', 'models', 'training_form', '__version__']
