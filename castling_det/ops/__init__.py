"""The mathematics of the attention as functions of torch, and their specifications."""

from .focal import focal_attention
from .linear_angular import linear_angular_attention, unit_norm
from .masked_softmax import masked_softmax_attention, softmax_probabilities
from .naive import (
    angular_kernel,
    angular_kernel_expansion,
    focal_attention_naive,
    linear_angular_attention_naive,
    masked_softmax_attention_naive,
)

__all__ = [
    'angular_kernel',
    'angular_kernel_expansion',
    'focal_attention',
    'focal_attention_naive',
    'linear_angular_attention',
    'linear_angular_attention_naive',
    'masked_softmax_attention',
    'masked_softmax_attention_naive',
    'softmax_probabilities',
    'unit_norm',
]
