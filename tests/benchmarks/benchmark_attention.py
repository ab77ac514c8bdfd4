"""Time linear-angular attention against its two matmuls, and against other attentions.

python tests/benchmarks/benchmark_attention.py [--rounds 9] [--heads 12] [--tokens 196 400 1024]

q, k and v are views of one tensor of all three, as backbones cut them; one image, heads of 64, one
thread, inference. All take turns in each round, first in torch and then, of the same modules
exported, in onnxruntime: in one round, one runtime would find the other's caches. The fewer tokens,
the more rounds. `x first` is the median of the ratios of a round to q (kᵀ v) alone. Memory is what
torch allocates beyond the inputs. softmax is torch's fused kernel; onnxruntime has none, and is not
asked where the logits would need too much memory. `ReLU` is the arithmetic of EfficientViT's linear
attention (arXiv:2205.14756, equation 2), `as published` our attention in the order of operations of
its paper, with `nn.Conv2d`.
"""

import argparse
import math
import os
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

os.environ.setdefault('KINETO_LOG_LEVEL', '6')  # the memory profiler announces itself otherwise

import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.analysis.latency import (
    FORMS,
    Competitor,
    Setting,
    conditions,
    measure,
    save,
)
from castling_det.export.graph import trace
from castling_det.models.attention import CastlingAttention, SoftmaxAttention
from castling_det.ops.linear_angular import unit_norm

DIMS = 64
TIMED_TOKENS = 40960  # at least, of each attention
MOST_LOGITS = 2**30  # that onnxruntime is asked to write out for softmax


class TwoMatmuls(nn.Module):
    """What linear attention cannot do without."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ (k.transpose(-2, -1) @ v)


class ReLUAttention(nn.Module):
    """Linear attention whose kernel is the product of ReLUs."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.relu(q), F.relu(k)
        sums = k.transpose(-2, -1) @ F.pad(v, (0, 1), value=1.0)
        y = q @ sums
        return y[..., :-1] / (y[..., -1:] + 1e-15)


class AsPublished(nn.Module):
    """Half of v and the angular term, normalised, and a convolution of tokens over the heads."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            num_heads, num_heads, (9, 1), padding=(4, 0), bias=False, groups=num_heads
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angular = unit_norm(q) @ (unit_norm(k).transpose(-2, -1) @ v) / math.pi
        return unit_norm(0.5 * v + angular) + self.conv(v)


class OfOneTensor(nn.Module):
    """``(B, N, 3, H, D)`` to ``(B, N, H * D)``, as between the projections of a block."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = (each.transpose(1, 2) for each in qkv.unbind(2))
        return self.attn(q, k, v).transpose(1, 2).flatten(2)


def competitors(heads: int) -> list[Competitor]:
    """Each attention in torch and in onnxruntime; their shapes are one row of tokens."""
    sizes = (heads, DIMS, DIMS)
    attentions = {
        'two matmuls': TwoMatmuls(),
        'ours': CastlingAttention(*sizes, aux=None),
        'ours without convolution': CastlingAttention(*sizes, kernel_size=None, aux=None),
        'as published': AsPublished(heads),
        'ReLU': ReLUAttention(),
        'softmax': SoftmaxAttention(*sizes),
    }
    models = {name: OfOneTensor(attn).eval() for name, attn in attentions.items()}

    def in_torch(name: str, shape: tuple[int, int]) -> partial:
        return partial(models[name], torch.randn(1, shape[1], 3, heads, DIMS))

    def in_onnxruntime(name: str, shape: tuple[int, int]) -> partial:
        if name == 'softmax' and heads * shape[1] ** 2 > MOST_LOGITS:
            raise torch.OutOfMemoryError('the logits would be too many')
        qkv = torch.randn(1, shape[1], 3, heads, DIMS).numpy()
        return partial(files[name].run, None, {files[name].get_inputs()[0].name: qkv})

    files = {name: in_file(model, heads) for name, model in models.items()}
    ways = dict(eager=in_torch, onnxruntime=in_onnxruntime)
    return [
        Competitor(
            *(name, FORMS['inference'], mode, 'fp32', 'whole'),
            *(partial(way, name), lambda: None, None),
        )
        for mode, way in ways.items()
        for name in models
    ]


def in_file(model: nn.Module, heads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    example = torch.randn(2, 137, 3, heads, DIMS)  # sizes that nothing divides are open
    file = torch.onnx.export(trace(model, (example, (0, 1))), dynamo=True, verbose=False)
    content = file.model_proto.SerializeToString()
    return onnxruntime.InferenceSession(content, options, ['CPUExecutionProvider'])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--heads', type=int, default=12)
    parser.add_argument(
        '--tokens', type=int, nargs='+', default=[196, 400, 1024, 1600, 4096, 16384]
    )
    parser.add_argument('--out', type=Path, help='JSON file')
    args = parser.parse_args()
    torch.manual_seed(0)
    setting = Setting(rounds=args.rounds)
    known = conditions(setting)
    print(*(f'{name}: {value}' for name, value in known.items()), sep=', ')
    print(f'{"tokens":>6}  {"":40}{"ms":>10}{"x first":>10}{"MiB":>10}')
    competing, found = competitors(args.heads), []
    for mode, tokens in product(dict.fromkeys(each.mode for each in competing), args.tokens):
        own = [each for each in competing if each.mode == mode]
        rounds = max(args.rounds, TIMED_TOKENS // tokens)
        first = None
        for measured in measure(own, [(1, tokens)], replace(setting, rounds=rounds)):
            found.append(measured)
            first = first or measured
            cells = [''] * 3
            if measured.seconds:
                ratio = measured.ratio_to(first)
                cells[:2] = f'{1e3 * measured.median:.2f}', f'{ratio:.2f}'
            if measured.memory:
                cells[2] = f'{measured.memory.peak / 2**20:.1f}'
            name = f'{measured.model}, {mode}'
            print(f'{tokens:6}  {name:40}{cells[0]:>10}{cells[1]:>10}{cells[2]:>10}', flush=True)
    if args.out:
        save(args.out, known, found)


if __name__ == '__main__':
    with torch.no_grad():
        main()
