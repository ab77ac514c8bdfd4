"""What several tests of weights read."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def jax_arrays() -> Callable[[int, int], dict[str, np.ndarray]]:
    """Random ones of every name that JAX's ViT has: 2 blocks of 32 channels, 2 heads, 3 classes."""
    return _jax_arrays


def _jax_arrays(patch_size: int, tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        'cls': (1, 1, 32),
        'embedding/kernel': (patch_size, patch_size, 3, 32),
        'embedding/bias': (32,),
        'head/kernel': (32, 3),
        'head/bias': (3,),
        'Transformer/posembed_input/pos_embedding': (1, tokens, 32),
        'Transformer/encoder_norm/scale': (32,),
        'Transformer/encoder_norm/bias': (32,),
    }
    for block in (f'Transformer/encoderblock_{i}/' for i in range(2)):
        for norm in ('LayerNorm_0', 'LayerNorm_2'):
            shapes |= {f'{block}{norm}/scale': (32,), f'{block}{norm}/bias': (32,)}
        attn = f'{block}MultiHeadDotProductAttention_1/'
        for name in ('query', 'key', 'value'):
            shapes |= {f'{attn}{name}/kernel': (32, 2, 16), f'{attn}{name}/bias': (2, 16)}
        shapes |= {f'{attn}out/kernel': (2, 16, 32), f'{attn}out/bias': (32,)}
        for layer, dims in (('Dense_0', (32, 128)), ('Dense_1', (128, 32))):
            shapes |= {f'{block}MlpBlock_3/{layer}/kernel': dims}
            shapes |= {f'{block}MlpBlock_3/{layer}/bias': dims[1:]}
    return {key: rng.normal(size=shape).astype('float32') for key, shape in shapes.items()}
