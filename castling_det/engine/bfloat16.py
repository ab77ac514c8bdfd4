"""Mixed precision on a CPU, which mmengine's ``AmpOptimWrapper`` refuses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Forward pass and losses under ``torch.autocast`` of the CPU: products in bfloat16.

    Weights, their gradients and the optimizer stay in float32. bfloat16 has float32's exponents, so
    losses are not scaled. ``tools/train.py --amp`` chooses it where there is no GPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As any wrapper's, which the runner's ``train_step`` enters."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield
