"""Training form and inference form of a castling model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from castling_det.models.attention import MaskedSoftmax


@contextmanager
def training_form(model: nn.Module) -> Iterator[nn.Module]:
    """Run the auxiliary branches although the model is in eval mode, for measurements only.

    Args:
        model (nn.Module): Any module; each branch runs with the ``ramp`` that its attention has,
            which is no part of a checkpoint: 0, the threshold t0, in a model just loaded.

    Yields:
        nn.Module: ``model``. On leaving, every branch is in the mode that it was in.
    """
    branches = [m for m in model.modules() if isinstance(m, MaskedSoftmax)]
    modes = [branch.training for branch in branches]
    try:
        for branch in branches:
            branch.train()
        yield model
    finally:
        for branch, mode in zip(branches, modes, strict=True):
            branch.train(mode)
