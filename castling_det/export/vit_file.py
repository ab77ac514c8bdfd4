"""A castlified model of another library as an ONNX file, from its own input to its own outputs."""

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.castling import castle
from castling_det.errors import InputError
from castling_det.export.onnx_model import onnx, session, write
from castling_det.export.recording import record
from castling_det.models.attention import CastlingAttention, SoftmaxAttention
from castling_det.models.focal_attention import FocalAttention

ATTENTIONS = (CastlingAttention, FocalAttention, SoftmaxAttention)
ALLOWED = 1e-4  # of the largest value of an output


@torch.no_grad()
def export_vit(
    model: nn.Module, image: Tensor, out: str | Path, options: dict | None = None
) -> float:
    """Write a castlified model as an ONNX file (opset 18) with open batch, height and width.

    What goes into the file is a castled copy in eval mode, whatever the form of ``model``; one that
    was not castlified goes as it is, with a warning. The file's input is ``image``, as the model
    takes it: normalised. Its outputs have the model's own names where it gives a mapping, as
    transformers' do, else ``output``, or ``output_0`` and so on.

    Args:
        model (nn.Module): Of any input size; it is left as it is.
        image (Tensor): ``(B, C, H, W)`` that the model takes, float32. The file is compared with
            torch on it, and on it at 2H x W and H x 2W.
        out (str | Path): File to write.
        options (dict, optional): What the model is called with besides.

    Returns:
        float: Largest difference of the file from torch, divided by the largest value of that
        output.

    Raises:
        InputError: If the model does not take the larger images, or gives something else than
            tensors, or if the file differs from torch by more than 1e-4; nothing is written then.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError(f'{out} is a folder: give the name of a file')
    trained = _Graph(deepcopy(model).cpu(), options or {}).eval()
    height, width = image.shape[-2:]
    sizes = [(height, width), (2 * height, width), (height, 2 * width)]
    images = [F.interpolate(image.cpu(), size) for size in sizes]
    expected = [trained.of_size(image) for image in images]
    shipped = deepcopy(trained)
    if any(isinstance(module, CastlingAttention) for module in shipped.modules()):
        castle(shipped)
    if not any(isinstance(module, ATTENTIONS) for module in shipped.modules()):
        MMLogger.get_current_instance().warning(
            f'{type(model).__name__} was not castlified: it goes into {out} with its own attention'
        )
    recorded = F.interpolate(image.cpu(), (4 * height, 5 * width))  # no side of one window
    exported = record(shipped, recorded[:1].expand(2, -1, -1, -1), list(expected[0]))
    _name_dimensions(exported)
    difference = _largest_difference(exported, images, expected)
    if not difference <= ALLOWED:  # nor if it is not a number
        raise InputError(
            f'{out} is not written: it differs from torch by {difference:.1e} of the largest value '
            f'at one of {", ".join(f"{h}x{w}" for h, w in sizes)} px; allowed: {ALLOWED:.0e}'
        )
    write(exported, out)
    return difference


class _Graph(nn.Module):
    """The model between one image and a tuple of tensors.

    Args:
        model (nn.Module): Of another library.
        options (dict): What it is called with besides.
    """

    def __init__(self, model: nn.Module, options: dict) -> None:
        super().__init__()
        self.model, self.options = model, options

    def named(self, image: Tensor) -> dict[str, Tensor]:
        """Outputs by their names in the file."""
        output = self.model(image, **self.options)
        if isinstance(output, Tensor):
            output = dict(output=output)
        elif not isinstance(output, Mapping):
            output = {f'output_{i}': value for i, value in enumerate(output)}
        other = [name for name, value in output.items() if not isinstance(value, Tensor)]
        if other:
            raise InputError(f'{type(self.model).__name__} gives {other[0]}, which is no tensor')
        return dict(output)

    def of_size(self, image: Tensor) -> dict[str, Tensor]:
        """As ``named``, with a sentence where the model takes no such image."""
        try:
            return self.named(image)
        except (AssertionError, RuntimeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f'{type(self.model).__name__} takes no image of {image.shape[-2]}x'
                f'{image.shape[-1]} px ({error}): timm builds one of any size by '
                'dynamic_img_size=True; transformers is asked by '
                'options=dict(interpolate_pos_encoding=True)'
            ) from error

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """As ``named``, without the names."""
        return tuple(self.named(image).values())


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Name the open dimensions of the input, also where outputs' are formulas of them."""
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    names = {
        dimension.dim_param: name
        for dimension, name in zip(dimensions, ('batch', '', 'height', 'width'), strict=True)
        if dimension.dim_param
    }
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = re.sub(
                    r'\w+', lambda word: names.get(word[0], word[0]), dimension.dim_param
                )


def _largest_difference(
    model: onnx.ModelProto, images: list[Tensor], expected: list[dict[str, Tensor]]
) -> float:
    opened, worst = session(model), torch.zeros(())
    for image, outputs in zip(images, expected, strict=True):
        for got, tensor in zip(
            opened.run(None, {'image': image.numpy()}), outputs.values(), strict=True
        ):
            difference = (torch.from_numpy(got) - tensor).abs().max() / tensor.abs().max()
            worst = torch.maximum(worst, difference)  # which keeps what is not a number
    return worst.item()
