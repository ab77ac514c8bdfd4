from .centred import centred_angular_attention
from .linear_angular import (
    linear_angular_attention,
    masked_softmax_attention,
    softmax_probabilities,
    unit_norm,
)
from .naive import (
    angular_kernel,
    angular_kernel_expansion,
    centred_angular_attention_naive,
    linear_angular_attention_naive,
)

__all__ = [
    'angular_kernel',
    'angular_kernel_expansion',
    'centred_angular_attention',
    'centred_angular_attention_naive',
    'linear_angular_attention',
    'linear_angular_attention_naive',
    'masked_softmax_attention',
    'softmax_probabilities',
    'unit_norm',
]
