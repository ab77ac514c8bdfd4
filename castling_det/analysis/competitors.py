"""What a latency benchmark compares: the forms of a config's model, and ONNX files.

Softmax attention is measured at its best: ``F.scaled_dot_product_attention`` with the logit biases
as ``attn_mask``, kept between forwards as in LeViT's own code. On the CPU its fused kernel refuses
values of another width than keys; LeViT's q and k are padded with zeros there, which changes no
logit.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from castling_det.analysis.complexity import count_complexity
from castling_det.analysis.latency import FORMS, Call, Competitor, Setting, Shape
from castling_det.castling import drop_aux
from castling_det.configs import build_model, softmax_twin
from castling_det.errors import InputError
from castling_det.models.attention import MaskedSoftmax, SoftmaxAttention
from castling_det.models.focal_attention import LINEAR
from castling_det.models.levit import LogitBias

PRECISIONS = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)
CALIBRATION_SHAPE = (128, 128)
SOFTMAX = (
    'softmax attention is F.scaled_dot_product_attention with the logit biases as attn_mask, kept '
    'between forwards; on the CPU q and k are padded with zeros to the width of v, without which '
    'the fused kernel refuses them'
)
# Inputs (name, sizes with text for what is dynamic, dtype), and from sizes to the function of them.
Run = Callable[[Mapping[str, np.ndarray]], Any]
Opened = tuple[list[tuple[str, list, type]], Callable[[Sequence[int]], Run]]


def torch_competitors(
    cfg: Config,
    forms: Sequence[str],
    modes: Sequence[str],
    setting: Setting,
    parts: Sequence[str] = ('whole',),
    shape: tuple[int, int] | None = None,
) -> list[Competitor]:
    """The forms of a config's model, with random weights and without folding batch norms.

    Args:
        cfg (Config): Config with ``model`` and ``default_scope``; it is not changed.
        forms (Sequence[str]): Keys of ``FORMS``. The training form computes aux at the ramp 0. A
            model without linear attention has the inference form alone, whatever is asked for.
        modes (Sequence[str]): Of 'eager' and 'compile'.
        setting (Setting): Where and how.
        parts (Sequence[str]): Of ``PARTS``. A backbone is a copy, and what it is in its model.
            Defaults to the whole model alone.
        shape (tuple[int, int], optional): Height and width for which the softmax twin is built.
            Defaults to those of the config's test.

    Raises:
        InputError: If NMS is to be compiled: the number of boxes changes from image to image.
    """
    if setting.with_nms and 'compile' in modes:
        raise InputError('NMS is not compiled: measure it in the mode eager alone')
    competitors, name = [], Path(cfg.filename).stem
    for form, whole in _forms(cfg, forms, shape).items():
        whole.to(setting.device, PRECISIONS[setting.precision])
        for part in parts:
            model = whole if part == 'whole' else deepcopy(whole.backbone)
            count = partial(_count, model, setting)
            for mode in modes:
                prepare = partial(_prepare, model, form, mode, part, setting)
                # eval() makes logit biases forget what they keep.
                competitors.append(
                    Competitor(
                        *(name, FORMS[form], mode, setting.precision, part),
                        *(prepare, model.eval, count),
                    )
                )
    return competitors


def _forms(
    cfg: Config, forms: Sequence[str], shape: tuple[int, int] | None
) -> dict[str, nn.Module]:
    def build(cfg: Config) -> nn.Module:
        torch.manual_seed(0)
        built = build_model(cfg)
        for module in list(built.modules()):
            if isinstance(module, SoftmaxAttention):
                module.register_forward_pre_hook(_pad_for_the_fused_kernel)
            for name, child in module.named_children():
                if isinstance(child, LogitBias):
                    setattr(module, name, _Kept(child))
        _calibrate(built)
        return built

    plain = build(cfg)
    if not any(isinstance(module, LINEAR) for module in plain.modules()):
        return dict(inference=plain)
    made = dict(
        training=lambda: build(cfg),
        inference=lambda: drop_aux(build(cfg)),
        twin=lambda: build(softmax_twin(cfg, shape)),
    )
    return {form: made[form]() for form in forms}


@torch.no_grad()
def _calibrate(model: nn.Module) -> None:
    """Let activations keep their size through random weights.

    They would vanish layer by layer, and CPUs are slow where numbers become denormal.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.ones_(module.weight)
            module.momentum = 1.0
    model.train()
    model(torch.randn(2, 3, *CALIBRATION_SHAPE))


def _pad_for_the_fused_kernel(module: SoftmaxAttention, args: tuple) -> tuple:
    """Zeros behind q and k leave the logits as they are; the module scales by its own key width.

    Where MACs are counted, which is by tracing, q and k stay as they are.
    """
    q, k, v, *others = args
    missing = v.shape[-1] - q.shape[-1]
    if missing > 0 and v.device.type == 'cpu' and not torch.jit.is_tracing():
        q, k = F.pad(q, (0, missing)), F.pad(k, (0, missing))
    return q, k, v, *others


class _Kept(nn.Module):
    """Logit biases that are computed once for a grid, until ``eval()`` is called again."""

    def __init__(self, bias: LogitBias) -> None:
        super().__init__()
        self.bias = bias
        self.kept: dict[Shape, Tensor] = {}

    def forward(self, kv_hw: Shape) -> Tensor:
        if kv_hw not in self.kept:
            self.kept.clear()  # those of two grids may not fit into memory
            self.kept[kv_hw] = self.bias(kv_hw)
        return self.kept[kv_hw]

    def train(self, mode: bool = True) -> '_Kept':
        self.kept.clear()
        return super().train(mode)


def _prepare(
    model: nn.Module, form: str, mode: str, part: str, setting: Setting, shape: Shape
) -> Call:
    model.eval()
    if form == 'training':
        for module in model.modules():
            if isinstance(module, MaskedSoftmax):
                module.train()
    image = _images(setting.batch, setting, shape)
    if mode == 'compile':
        return partial(torch.compile(_with_fixed_biases(model, image), dynamic=False), image)
    if setting.with_nms and part == 'whole':
        return partial(model, image, _samples(setting.batch, shape), mode='predict')
    return partial(model, image)


def _images(number: int, setting: Setting, shape: Shape) -> Tensor:
    return torch.randn(number, 3, *shape).to(setting.device, PRECISIONS[setting.precision])


def _count(model: nn.Module, setting: Setting, shape: Shape) -> int:
    """MACs of one image in the form that :func:`_prepare` has put the model into."""
    return count_complexity(model, _images(1, setting, shape)).macs


class _Fixed(nn.Module):
    """Logit biases of one grid."""

    def __init__(self, biases: Tensor) -> None:
        super().__init__()
        self.register_buffer('biases', biases)

    def forward(self, kv_hw: Shape) -> Tensor:
        return self.biases


def _with_fixed_biases(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy for one image size, in which logit biases are constants, for the compiler."""
    model, fixed, hooks = deepcopy(model), {}, []
    for module in model.modules():
        if isinstance(module, _Kept):
            hooks.append(
                module.register_forward_hook(
                    lambda module, args, out: fixed.update({module: _Fixed(out)})
                )
            )
    if hooks:
        model(image)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in fixed:
                setattr(parent, name, fixed[child])
    return model


def _samples(batch: int, shape: Shape) -> list:
    from mmdet.structures import DetDataSample  # only detectors need it

    metainfo = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape)
    return [DetDataSample(metainfo=dict(metainfo, scale_factor=(1.0, 1.0))) for _ in range(batch)]


def onnx_competitor(path: Path, mode: str, setting: Setting) -> Competitor:
    """An ONNX file with one input ``(B, 3, H, W)``, and all that it computes.

    It is opened anew for each size, with that size fixed, so that what depends on the size alone,
    such as the logit biases of a softmax twin, is computed before the clock runs.

    Args:
        path (Path): Local file.
        mode (str): 'onnxruntime' or 'openvino'; the one named has to be installed.
        setting (Setting): OpenVINO runs on the CPU alone, and computes in its precision.

    Raises:
        InputError: If there is no such file, if the runtime is not installed or lacks the device,
            or if the file has another input than one image.
    """
    if not path.is_file():
        raise InputError(f'ONNX file {path} does not exist')
    open_file = _open_onnxruntime if mode == 'onnxruntime' else _open_openvino
    inputs, open_at = open_file(path, setting)
    if len(inputs) != 1 or len(inputs[0][1]) != 4:
        described = ', '.join(f'{name} {sizes}' for name, sizes, _ in inputs)
        raise InputError(
            f'{path} takes {described}: only one image (B, 3, H, W) can be given to it'
        )
    name, sizes, dtype = inputs[0]

    def prepare(shape: Shape) -> Call:
        wanted = (setting.batch, 3, *shape)
        if any(isinstance(a, int) and a != b for a, b in zip(sizes, wanted, strict=True)):
            raise InputError(
                f'{path} takes {name} {sizes}, not {wanted}: export it with dynamic sizes, or '
                'choose --shape and --batch as the file has them'
            )
        image = np.random.default_rng(0).uniform(0, 255, wanted).astype(dtype)
        return partial(open_at(wanted), {name: image})

    return Competitor(
        *(path.stem, 'as exported', mode, 'as exported', 'whole'),
        *(prepare, lambda: None, None),
    )


def _open_onnxruntime(path: Path, setting: Setting) -> Opened:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "the mode onnxruntime needs onnxruntime: pip install 'castling_det[export]'"
        ) from error
    kind = torch.device(setting.device).type
    provider = f'{kind.upper()}ExecutionProvider'
    if provider not in onnxruntime.get_available_providers():
        raise InputError(f'this onnxruntime has no {provider}, which device {kind} needs')
    dtypes = {
        'tensor(float)': np.float32,
        'tensor(float16)': np.float16,
        'tensor(uint8)': np.uint8,
    }

    def open_with(fixed: Mapping[str, int]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setting.threads
        options.inter_op_num_threads = 1
        for dimension, size in fixed.items():
            options.add_free_dimension_override_by_name(dimension, size)
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])

    inputs = [(each.name, each.shape, dtypes[each.type]) for each in open_with({}).get_inputs()]

    def open_at(sizes: Sequence[int]) -> Run:
        pairs = zip(inputs[0][1], sizes, strict=True)
        fixed = {dimension: size for dimension, size in pairs if isinstance(dimension, str)}
        return partial(open_with(fixed).run, None)

    return inputs, open_at


def _open_openvino(path: Path, setting: Setting) -> Opened:
    try:
        import openvino
    except ImportError as error:
        raise InputError('the mode openvino needs openvino: pip install openvino') from error
    if torch.device(setting.device).type != 'cpu':
        raise InputError('the mode openvino runs on the CPU: leave --device out')
    options = dict(
        INFERENCE_NUM_THREADS=setting.threads,
        INFERENCE_PRECISION_HINT=dict(fp32='f32', fp16='f16', bf16='bf16')[setting.precision],
        PERFORMANCE_HINT='LATENCY',
    )
    core = openvino.Core()
    model = core.read_model(str(path))
    inputs = [
        (
            port.any_name,
            [each.get_length() if each.is_static else str(each) for each in port.partial_shape],
            port.element_type.to_dtype().type,
        )
        for port in model.inputs
    ]

    def open_at(sizes: Sequence[int]) -> Run:
        model.reshape(sizes)
        return core.compile_model(model, 'CPU', options).create_infer_request().infer

    return inputs, open_at
