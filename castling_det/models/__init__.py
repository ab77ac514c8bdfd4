from .attention import CastlingAttention, NoMixing, SelfAttention, SoftmaxAttention
from .castling_levit import CastlingLeViT
from .castling_vit import CastlingViT

__all__ = [
    'CastlingAttention',
    'CastlingLeViT',
    'CastlingViT',
    'NoMixing',
    'SelfAttention',
    'SoftmaxAttention',
]
