from .attention import CastlingAttention, NoMixing, SelfAttention, SoftmaxAttention
from .levit import CastlingLeViT
from .timm_vit import CastlingTimm
from .vit import CastlingViT

__all__ = [
    'CastlingAttention',
    'CastlingLeViT',
    'CastlingTimm',
    'CastlingViT',
    'NoMixing',
    'SelfAttention',
    'SoftmaxAttention',
]
