"""Parameters and multiply-accumulates of a model in the form that it is in."""

import math
from dataclasses import dataclass

from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

# Counted by mmengine, by none of the papers.
_FREE_OPS = (
    'aten::batch_norm',
    'aten::layer_norm',
    'aten::group_norm',
    'aten::instance_norm',
    'aten::upsample_nearest2d',
    'aten::upsample_bilinear2d',
    'aten::adaptive_avg_pool2d',
)


@dataclass(frozen=True)
class Complexity:
    """Counts of one model on one input.

    Attributes:
        params (int): Parameters, frozen ones included.
        macs (int): Multiply-accumulates of matrix products and convolutions; norms, additions,
            softmax and activations are not counted (LeViT, MViTv2, DeiT and RTMDet count so;
            PicoDet and YOLOX print twice the number).
    """

    params: int
    macs: int


def count_complexity(model: nn.Module, *inputs: Tensor) -> Complexity:
    """Count a model on example inputs, in eval mode.

    Aux is seen with ``training_form`` around the call and a model that is in eval mode already.

    Args:
        model (nn.Module): The mode of each of its modules is restored afterwards.
        *inputs (Tensor): What ``model.forward`` takes.
    """
    modes = [(module, module.training) for module in model.modules()]
    if model.training:
        model.eval()
    analyzer = FlopAnalyzer(model, inputs)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analyzer.set_op_handle(
        **dict.fromkeys(_FREE_OPS, _no_macs),
        **{'aten::scaled_dot_product_attention': _attention_macs},
    )
    try:
        macs = int(analyzer.total())
    finally:
        for module, mode in modes:
            module.training = mode
    return Complexity(sum(p.numel() for p in model.parameters()), macs)


def _no_macs(inputs: list, outputs: list) -> int:
    return 0


def _attention_macs(inputs: list, outputs: list) -> int:
    """MACs of q kᵀ and of the product with v; mmengine's counter sees this op as free."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
