from .attention import CastlingAttention, NoMixing, SelfAttention, SoftmaxAttention
from .centred_attention import CentredAttention
from .levit import CastlingLeViT
from .simple_feature_pyramid import SimpleFeaturePyramid
from .timm_vit import CastlingTimm
from .vit import CastlingViT

__all__ = [
    'CastlingAttention',
    'CastlingLeViT',
    'CastlingTimm',
    'CastlingViT',
    'CentredAttention',
    'NoMixing',
    'SelfAttention',
    'SimpleFeaturePyramid',
    'SoftmaxAttention',
]
