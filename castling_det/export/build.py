"""Which graph a model becomes, and what is shipped of it. Needs the model's own library."""

from copy import deepcopy

import torch
from torch import nn

from castling_det.castling import castle, fold_batch_norms
from castling_det.errors import InputError
from castling_det.export.adaptive_pool import open_adaptive_pools
from castling_det.export.graph import EXAMPLE_SHAPE, Graph
from castling_det.export.pixel_decoder import open_pixel_decoders
from castling_det.export.tood_head import open_tood_heads
from castling_det.models.attention import CastlingAttention


def graphs(model: nn.Module, decodes: bool, half: bool) -> tuple[Graph, Graph]:
    """The model as it was trained, in float32, and what is shipped of it; both are copies.

    What is shipped is castled, with its batch norms folded.

    Args:
        model (nn.Module): Detector, segmentor or classifier in eval mode.
        decodes (bool): See :class:`Graph`.
        half (bool): Weights and activations of what is shipped in float16; linear-angular attention
            computes its norms and sums in float32 by itself.

    Raises:
        InputError: If files of such models are not made, or if the model does not take images of
            any size.
    """
    if hasattr(model, 'decode_head'):
        from castling_det.export.segmentor_graph import SegmentorGraph as Kind
    elif hasattr(model, 'head'):
        from castling_det.export.classifier_graph import ClassifierGraph as Kind
    else:
        from castling_det.export.detector_graph import DetectorGraph as Kind
    trained = Kind(deepcopy(model), decodes).eval().requires_grad_(False)
    _require_any_size(trained)
    shipped = deepcopy(trained)
    if any(isinstance(module, CastlingAttention) for module in shipped.modules()):
        castle(shipped, fold_bn=True)
    else:
        fold_batch_norms(shipped)
    open_adaptive_pools(shipped)
    open_pixel_decoders(shipped)
    open_tood_heads(shipped)
    if half:
        shipped.model.half()
    return trained, shipped


def _require_any_size(graph: Graph) -> None:
    """Try a size that nothing divides: many networks of mmdet take multiples of 32 alone."""
    try:
        graph(torch.zeros(EXAMPLE_SHAPE))
    except RuntimeError as error:
        graph(torch.zeros(2, 3, 160, 224))  # what fails here as well is not of the size
        height, width = EXAMPLE_SHAPE[-2:]
        raise InputError(
            f'the model fails on an image of {height}x{width} px, and a file has to take any size: '
            f'give model.data_preprocessor=dict(pad_size_divisor=32), by which images are padded '
            f'({str(error).splitlines()[0]})'
        ) from error
