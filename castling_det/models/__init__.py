"""The attention modules, the backbones that take them, and a pyramid: types of any config."""

from .attention import CastlingAttention, NoMixing, SelfAttention, SoftmaxAttention
from .focal_attention import FocalAttention
from .levit import CastlingLeViT
from .mae_vit import CastlingMAEViT
from .mvit import CastlingMViT
from .simple_feature_pyramid import SimpleFeaturePyramid
from .timm_vit import CastlingTimm
from .vit import CastlingViT

__all__ = [
    'CastlingAttention',
    'CastlingLeViT',
    'CastlingMAEViT',
    'CastlingMViT',
    'CastlingTimm',
    'CastlingViT',
    'FocalAttention',
    'NoMixing',
    'SelfAttention',
    'SimpleFeaturePyramid',
    'SoftmaxAttention',
]
