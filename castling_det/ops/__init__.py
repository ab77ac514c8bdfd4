from .linear_angular import (
    angular_kernel,
    angular_kernel_expansion,
    linear_angular_attention,
    linear_angular_attention_naive,
    masked_softmax_attention,
    unit_norm,
)

__all__ = [
    'angular_kernel',
    'angular_kernel_expansion',
    'linear_angular_attention',
    'linear_angular_attention_naive',
    'masked_softmax_attention',
    'unit_norm',
]
