"""A model as a graph of ONNX operators.

The sides of focal attention's windows are formulas of the image's size, which torch takes many
seconds a block to follow. So a block is recorded as one call of a function, the function by itself
and once, and what is returned has the function's operators in the place of each call.
"""

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from castling_det.export.graph import OPEN, trace
from castling_det.export.onnx_model import OPSET, onnx
from castling_det.models.attention import Grid
from castling_det.models.focal_attention import FocalAttention
from castling_det.ops.focal import attend_on_grid

DOMAIN = 'castling_det'
# What attend_on_grid takes, and on which grid: like EXAMPLE_SHAPE, nothing divides them evenly.
EXAMPLE_HW = dict(q=(22, 35), k=(19, 27), v=(19, 27), extra_keys=None, extra_values=None)


def record(model: nn.Module, image: Tensor, output_names: list[str]) -> onnx.ModelProto:
    """Standard operators, with open batch, height and width; focal attention in ``model`` is gone.

    Args:
        model (nn.Module): In eval mode; from an image to tensors.
        image (Tensor): ``(B, 3, H, W)``. A batch of one would be fixed, and a side of one window.
        output_names (list[str]): Of the tensors.
    """
    functions: dict[str, FocalFunction] = {}
    for parent in list(model.modules()):
        if getattr(parent, 'inplace', False):
            parent.inplace = False  # torch would take hardswish_ apart at first, which takes long
        for name, child in list(parent.named_children()):
            if isinstance(child, FocalAttention):
                setattr(parent, name, FocalCall(child.cells, functions))
    recorded = _in_operators(trace(model, (image, OPEN)), ['image'], output_names)
    recorded.functions.extend(function.record() for function in functions.values())
    recorded = onnx.inliner.inline_local_functions(recorded)
    _drop_traces(recorded)
    return recorded


def _in_operators(
    program: ExportedProgram, input_names: list[str], output_names: list[str]
) -> onnx.ModelProto:
    return torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        external_data=False,
        opset_version=OPSET,
        input_names=input_names,
        output_names=output_names,
    ).model_proto


def _drop_traces(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging: the source lines, and shapes as formulas."""
    graph = model.graph
    del graph.value_info[:]
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]


class FocalCall(nn.Module):
    """:class:`FocalAttention` as the call of a function.

    Args:
        cells (int): Of the attention.
        functions (dict[str, FocalFunction]): What has been called, by name.
    """

    def __init__(self, cells: int, functions: dict[str, 'FocalFunction']) -> None:
        super().__init__()
        self.cells, self.functions = cells, functions

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_hw: Grid,
        kv_hw: Grid,
        bias: None = None,
        num_extra_tokens: int = 0,
    ) -> Tensor:
        """As :func:`castling_det.ops.focal_attention`."""
        (extra, queries), (extra_keys, keys), (extra_values, values) = (
            x.tensor_split((num_extra_tokens,), dim=2) for x in (q, k, v)
        )
        inputs = (
            queries.unflatten(2, q_hw),
            keys.unflatten(2, kv_hw),
            values.unflatten(2, kv_hw),
            extra_keys,
            extra_values,
        )
        function = FocalFunction(self.cells, inputs)
        self.functions[function.name] = function
        y = torch.onnx.ops.symbolic(
            f'{DOMAIN}::{function.name}',
            inputs,
            dtype=q.dtype,
            shape=(*queries.shape[:3], v.shape[3]),
            version=1,
        )
        if num_extra_tokens:
            y = torch.cat((F.scaled_dot_product_attention(extra, k, v), y), dim=2)
        return y


class FocalFunction(nn.Module):
    """:func:`attend_on_grid` of given heads, dims and extra tokens, for grids of any size.

    Args:
        cells (int): Most cells along a side.
        inputs (tuple[Tensor, ...]): What it is called with, among other calls.
    """

    def __init__(self, cells: int, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.cells, self.dtype = cells, inputs[0].dtype
        self.shapes = {
            name: (2, x.shape[1], *(hw or x.shape[2:-1]), x.shape[-1])
            for (name, hw), x in zip(EXAMPLE_HW.items(), inputs, strict=True)
        }
        sizes = '_'.join('x'.join(map(str, shape)) for shape in self.shapes.values())
        self.name = f'focal_{cells}_{sizes}_{self.dtype}'.replace('.', '_')

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, extra_keys: Tensor, extra_values: Tensor
    ) -> Tensor:
        """The tokens ``(B, H, n, Dv)``."""
        return attend_on_grid(q, k, v, extra_keys, extra_values, self.cells).flatten(2, 3)

    def record(self) -> onnx.FunctionProto:
        """The function in standard operators."""
        inputs = [
            (torch.rand(shape, dtype=self.dtype), OPEN if len(shape) == 5 else (0,))
            for shape in self.shapes.values()
        ]
        graph = _in_operators(trace(self, *inputs), list(self.shapes), ['y']).graph
        constants = [
            onnx.helper.make_node('Constant', [], [tensor.name], value=tensor)
            for tensor in graph.initializer
        ]
        opset = onnx.helper.make_opsetid('', OPSET)
        return onnx.helper.make_function(
            DOMAIN, self.name, list(self.shapes), ['y'], [*constants, *graph.node], [opset]
        )
