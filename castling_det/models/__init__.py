from .attention import CastlingAttention, SelfAttention, SoftmaxAttention
from .castling_levit import CastlingLeViT

__all__ = ['CastlingAttention', 'CastlingLeViT', 'SelfAttention', 'SoftmaxAttention']
