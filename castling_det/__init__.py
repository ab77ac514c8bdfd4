"""Castling-ViT attention, backbones and training hooks for the OpenMMLab detectors and segmentors.

Importing this package registers everything that needs torch and mmengine alone in mmengine's root
registries, so that a plain type name works from mmdet, mmseg and mmpretrain configs. The PicoDet
neck and head need mmdet; ``castling_det.detection`` registers them. ``castling_det.Predictor`` is
imported when it is asked for, since reading images needs mmcv and OpenCV.
"""

from .compat.config_bases import know_our_configs
from .compat.finders import add_finders

know_our_configs()
add_finders()

from . import hooks, models  # noqa: E402
from .castlifying import castlify  # noqa: E402
from .castling import castle, training_form  # noqa: E402
from .distilling import distill  # noqa: E402
from .engine import bfloat16, layer_decay  # noqa: E402, F401  registered
from .models.timm_vit import load_vit  # noqa: E402
from .ramp import Ramp  # noqa: E402

__version__ = '0.1.0'
__all__ = [
    'Predictor',
    'Ramp',
    'castle',
    'castlify',
    'distill',
    'hooks',
    'load_vit',
    'models',
    'training_form',
    '__version__',
]


def __getattr__(name: str) -> type:
    if name != 'Predictor':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .inference.predictor import Predictor

    return Predictor
