from .attention import CastlingAttention, NoMixing, SelfAttention, SoftmaxAttention
from .castling_levit import CastlingLeViT

__all__ = ['CastlingAttention', 'CastlingLeViT', 'NoMixing', 'SelfAttention', 'SoftmaxAttention']
