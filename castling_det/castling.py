"""Training form and inference form of a castling model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from castling_det.errors import InputError
from castling_det.models.attention import CastlingAttention, MaskedSoftmax
from castling_det.models.layers import ConvBN, LinearBN


def castle(model: nn.Module, fold_bn: bool = False) -> nn.Module:
    """Turn a model from the training form into the inference form, in place.

    The auxiliary branches go. They own no parameters and never run in eval mode, so ``state_dict``
    keys and eval outputs stay what they were, to the bit. A castled model is left as it is. A
    warning says so if the ramp of a branch is below 1: its masks may not be empty, so that what
    was trained may be another function. A model that was never trained has ramp 0.

    Args:
        model (nn.Module): Any module with :class:`CastlingAttention` in it: a backbone, a detector,
            a segmentor, inside DistributedDataParallel, an average or ``torch.compile`` or not.
        fold_bn (bool): For export alone: also fold batch norms into the layer before them, where
            that layer is certain (the LinearBN and ConvBN of our backbones, mmcv's ConvModule).
            This changes ``state_dict`` keys, and outputs by float rounding; an optimizer, a
            distributed wrapper or an EMAHook of the model is of no use afterwards. Defaults to
            False.

    Returns:
        nn.Module: ``model``.

    Raises:
        InputError: If there is no CastlingAttention in the model, or if ``fold_bn`` is asked for in
            training mode, where a batch norm is no linear layer.
    """
    attentions = [m for m in model.modules() if isinstance(m, CastlingAttention)]
    if not attentions:
        raise InputError(f'{type(model).__name__} has no CastlingAttention: nothing to castle')
    if fold_bn and model.training:
        raise InputError('castle(fold_bn=True) needs a model in eval mode: call its eval() first')
    ramp = min((attention.ramp for _, attention in castling_attentions(model)), default=1.0)
    if ramp < 1:
        print_log(
            f'castle: the ramp is {ramp:.4g}, not 1, so the masks of the auxiliary branches may '
            'not be empty, and the inference form differs from what was trained',
            logger='current',
            level=logging.WARNING,
        )
    drop_aux(model)
    if fold_bn:
        fold_batch_norms(model)
    return model


def drop_aux(model: nn.Module) -> nn.Module:
    """What :func:`castle` does to attentions, without a word: for models that nobody trained."""
    for _, attention in castling_attentions(model):
        attention.switch_to_deploy()
    return model


def fold_batch_norms(model: nn.Module) -> None:
    """Fold batch norms into the layer before them, in place, where that layer is certain.

    It is what ``castle(fold_bn=True)`` does, for models without CastlingAttention too.

    Args:
        model (nn.Module): In eval mode.
    """
    from mmcv.cnn import ConvModule  # importing castling_det shall not bring mmcv

    for parent in list(model.modules()):
        if isinstance(parent, ConvModule):
            _fold_conv_module(parent)
        for name, child in list(parent.named_children()):
            if isinstance(child, LinearBN):
                setattr(parent, name, fuse_linear_bn_eval(child.linear, child.bn))
            elif isinstance(child, ConvBN) and isinstance(child.bn, _BatchNorm):
                child.conv, child.bn = fuse_conv_bn_eval(child.conv, child.bn), nn.Identity()


def _fold_conv_module(module: nn.Module) -> None:
    """Fold the norm of an mmcv ConvModule where it is a batch norm right after a plain conv.

    The folded convolution is a copy: heads that share one between levels give each its own norm.
    """
    follows = ''.join(module.order).find('convnorm') >= 0
    if follows and type(module.conv) is nn.Conv2d and isinstance(module.norm, _BatchNorm):
        module.conv = fuse_conv_bn_eval(module.conv, module.norm)
        setattr(module, module.norm_name, nn.Identity())


def castling_attentions(model: nn.Module) -> Iterator[tuple[str, CastlingAttention]]:
    """Every attention that has an auxiliary branch, by its name in the model without wrappers."""
    if is_model_wrapper(model):
        model = model.module
    for name, module in model.named_modules():
        if isinstance(module, CastlingAttention) and module.aux is not None:
            yield name.removeprefix('_orig_mod.'), module


@contextmanager
def training_form(model: nn.Module) -> Iterator[nn.Module]:
    """Run the auxiliary branches although the model is in eval mode, for measurements only.

    Args:
        model (nn.Module): Any module; each branch runs with the ``ramp`` that its attention has: 0,
            the threshold t0, in a model just built, and what the checkpoint says in a Runner with
            :class:`CastlingHook`. At ramp 1 there is nothing to run.

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
