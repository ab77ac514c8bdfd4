"""Parameters and multiply-accumulates: of a model, of its parts, of the forms of a config."""

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from inspect import signature

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from torch import Tensor, nn

from castling_det.castling import castling_attentions, training_form
from castling_det.configs import build_model, softmax_twin
from castling_det.errors import InputError
from castling_det.models.focal_attention import LINEAR

# Counted by mmengine, by none of the papers.
_FREE_OPS = (
    'aten::batch_norm',
    'aten::layer_norm',
    'aten::group_norm',
    'aten::instance_norm',
    'aten::upsample_nearest2d',
    'aten::upsample_bilinear2d',
    'aten::adaptive_avg_pool2d',
    'aten::grid_sampler',
)

OWN = '(own)'


@dataclass(frozen=True)
class Complexity:
    """Counts of one module on one input.

    Attributes:
        params (int): Parameters, frozen ones included; a shared one counts once, where it is first.
        macs (int): Multiply-accumulates of matrix products and convolutions; norms, additions,
            interpolation, softmax and activations are not counted (LeViT, MViTv2, DeiT and RTMDet
            count so; PicoDet and YOLOX print twice the number).
        parts (dict[str, Complexity]): The same of each child that counts anything, by name; what
            belongs to no child is ``'(own)'``. Their sum is the whole.
    """

    params: int
    macs: int
    parts: dict[str, 'Complexity'] = field(default_factory=dict, repr=False)

    def by_part(self, depth: int = 1) -> dict[str, 'Complexity']:
        """Counts by dotted name, down to ``depth`` levels of children."""
        named = {}
        for name, part in self.parts.items():
            named[name] = part
            if depth > 1:
                named |= {f'{name}.{below}': c for below, c in part.by_part(depth - 1).items()}
        return named


def count_complexity(model: nn.Module, *inputs: Tensor) -> Complexity:
    """Count a model on example inputs, in eval mode.

    On images alone, mmdet and mmseg models run their backbone, neck and head without decoding and
    NMS (``mode='tensor'``): they are counted as they ship. Aux is seen with ``training_form``
    around the call and a model that is in eval mode already.

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
        **{
            'aten::scaled_dot_product_attention': _attention_macs,
            'castling_det::masked_softmax': _attention_macs,
            'aten::baddbmm': _masked_product_macs,
        },
    )
    try:
        with torch.no_grad():
            macs = analyzer.by_module()
    finally:
        for module, mode in modes:
            module.training = mode
    return _tree(model, '', _params_by_module(model), macs)


def count_forms(cfg: Config, shape: tuple[int, int]) -> dict[str, Complexity]:
    """Count the model of a config on one image, in every form that it has.

    Args:
        cfg (Config): Config with ``model`` and ``default_scope``; it is not changed.
        shape (tuple[int, int]): Height and width of the image.

    Returns:
        dict[str, Complexity]: By ``'training form'``, ``'inference form'`` and ``'softmax twin'``;
        of a model without linear attention ``'inference form'`` alone, and of one with
        :class:`FocalAttention` no ``'training form'``.
    """
    model, image = _on_images_alone(build_model(cfg), shape).eval(), torch.zeros(1, 3, *shape)
    inference = _count_or_refuse(cfg, model, image)
    if not any(isinstance(module, LINEAR) for module in model.modules()):
        return {'inference form': inference}
    forms = {}
    if any(castling_attentions(model)):
        with training_form(model):
            forms['training form'] = count_complexity(model, image)
    twin = _on_images_alone(build_model(softmax_twin(cfg, shape)), shape)
    return forms | {'inference form': inference, 'softmax twin': count_complexity(twin, image)}


def count_config(cfg: Config, shape: tuple[int, int]) -> Complexity:
    """Count the model of a config on one image of ``shape`` (height, width), in inference form."""
    model = _on_images_alone(build_model(cfg), shape)
    return _count_or_refuse(cfg, model, torch.zeros(1, 3, *shape))


def _on_images_alone(model: nn.Module, shape: tuple[int, int]) -> nn.Module:
    """Let a model run with ``mode='tensor'`` without samples, for which some ask.

    A second stage gets all the proposals that its config keeps, whatever the weights.
    """
    head = getattr(model, 'decode_head', None)
    if head is not None:
        if 'batch_data_samples' in signature(head.forward).parameters:  # mmseg's Mask2Former
            head.forward = partial(head.forward, batch_data_samples=[])
        return model
    from mmdet.models import BaseDetector  # segmentors and classifiers need no mmdet
    from mmdet.structures import DetDataSample

    if isinstance(model, BaseDetector):  # those with two stages or with queries
        names = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
        sample = DetDataSample(metainfo=dict.fromkeys(names, shape) | dict(scale_factor=(1, 1)))
        model.forward = partial(model.forward, data_samples=[sample])
        if getattr(model, 'with_rpn', False):
            model.rpn_head.test_cfg.nms.iou_threshold = 1.0
    return model


def _count_or_refuse(cfg: Config, model: nn.Module, image: Tensor) -> Complexity:
    try:
        return count_complexity(model, image)
    except (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        if any(isinstance(module, LINEAR) for module in model.modules()):
            raise
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f'{cfg.filename}: {type(model).__name__} does not run on {image.shape[2]}x'
            f"{image.shape[3]} px with mode='tensor', by which models are counted: {reason}"
        ) from error


def _params_by_module(model: nn.Module) -> Counter:
    """Parameters of each module and all below it, by the module's name."""
    params = Counter()
    for name, parameter in model.named_parameters():
        params[''] += parameter.numel()
        while '.' in name:
            name = name.rpartition('.')[0]
            params[name] += parameter.numel()
    return params


def _tree(module: nn.Module, name: str, params: Counter, macs: Counter) -> Complexity:
    parts = {}
    for child_name, child in module.named_children():
        part = _tree(child, f'{name}.{child_name}' if name else child_name, params, macs)
        if part.params or part.macs:
            parts[child_name] = part
    own = Complexity(
        params[name] - sum(part.params for part in parts.values()),
        int(macs[name]) - sum(part.macs for part in parts.values()),
    )
    if parts and (own.params or own.macs):
        parts[OWN] = own
    return Complexity(params[name], int(macs[name]), parts)


def _no_macs(inputs: list, outputs: list) -> int:
    return 0


def _attention_macs(inputs: list, outputs: list) -> int:
    """MACs of q kᵀ and of the product with v; mmengine's counter sees them as free."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _masked_product_macs(inputs: list, outputs: list) -> int:
    """MACs of ``mask + q kᵀ``, which ``nn.MultiheadAttention`` computes where it has a mask."""
    q, k = (value.type().sizes() for value in inputs[1:3])
    return math.prod(q) * k[-1]
