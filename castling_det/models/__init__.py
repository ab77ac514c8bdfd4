from .attention import CastlingAttention, NoMixing, SelfAttention, SoftmaxAttention
from .levit import CastlingLeViT
from .vit import CastlingViT

__all__ = [
    'CastlingAttention',
    'CastlingLeViT',
    'CastlingViT',
    'NoMixing',
    'SelfAttention',
    'SoftmaxAttention',
]
