"""Time linear-angular attention against its two matmuls and fused softmax attention.

python tests/benchmarks/benchmark_attention.py [--rounds 9] [--heads 12] [--tokens 196 400 1024]

q, k and v are views of one tensor of all three, as backbones cut them; one image, heads of 64, one
thread, inference. "two matmuls" are q (kᵀ v) and nothing else. All take turns in each round, in
torch and, of the same modules exported, in onnxruntime. The table shows medians in ms, and medians
of the ratios of a round: ours to the two matmuls with and without the convolution, and softmax to
ours; nan where onnxruntime's softmax would need too much memory. Memory is what torch allocates
for the whole of ours beyond its inputs.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import onnxruntime
import torch
from torch import Tensor, nn

from castling_det.analysis.latency import peak_memory
from castling_det.export.graph import trace
from castling_det.models.attention import CastlingAttention, SoftmaxAttention
from castling_det.provenance import cpu_name

DIMS = 64
MOST_LOGITS = 2**30  # that onnxruntime is asked to write out for softmax


class TwoMatmuls(nn.Module):
    """What linear attention cannot do without."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ (k.transpose(-2, -1) @ v)


class OfOneTensor(nn.Module):
    """``(B, N, 3, H, D)`` to ``(B, N, H * D)``, as between the projections of a block."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = (each.transpose(1, 2) for each in qkv.unbind(2))
        return self.attn(q, k, v).transpose(1, 2).flatten(2)


def in_onnxruntime(model: nn.Module, qkv: Tensor) -> Callable[[Tensor], list]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = torch.onnx.export(trace(model, (qkv, (0, 1))), dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(
        file.SerializeToString(), options, ['CPUExecutionProvider']
    )
    name = session.get_inputs()[0].name
    return lambda qkv: session.run(None, {name: qkv.numpy()})


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1e3 * (time.perf_counter() - begin) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--heads', type=int, default=12)
    parser.add_argument(
        '--tokens', type=int, nargs='+', default=[196, 400, 1024, 1600, 4096, 16384]
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = (args.heads, DIMS, DIMS)
    modules = [
        TwoMatmuls(),
        CastlingAttention(*sizes, kernel_size=None, aux=None),
        CastlingAttention(*sizes, aux=None),
        SoftmaxAttention(*sizes),
    ]
    models = [OfOneTensor(module).eval() for module in modules]
    example = torch.randn(2, 137, 3, args.heads, DIMS)  # sizes that nothing divides are open
    runtimes = {
        f'torch {torch.__version__}': models,
        f'onnxruntime {onnxruntime.__version__}': [in_onnxruntime(m, example) for m in models],
    }
    print(f'one thread of {cpu_name()}, {args.heads} heads of {DIMS}')
    for runtime, calls in runtimes.items():
        print(f'\n{runtime}, {args.rounds} rounds')
        print(
            f'{"tokens":>6}{"matmuls":>10}{"no conv":>10}{"ours":>10}{"softmax":>10}'
            f'{"no conv/matmuls":>17}{"ours/matmuls":>14}{"softmax/ours":>14}{"memory, MiB":>13}'
        )
        for tokens in args.tokens:
            qkv = torch.randn(1, tokens, 3, args.heads, DIMS)
            with torch.inference_mode():
                memory = peak_memory(partial(models[2], qkv), 'cpu').peak / 2**20
                steps = [partial(call, qkv) for call in calls]
                if calls is not models and args.heads * tokens**2 > MOST_LOGITS:
                    steps.pop()
                repeats = max(1, 2048 // tokens)
                times = [[milliseconds(s, repeats) for s in steps] for _ in range(args.rounds + 1)]
            times = [(*row, math.nan)[:4] for row in times[1:]]  # the first warms up
            matmuls, bare, ours, softmax = (median(column) for column in zip(*times, strict=True))
            ratios = [median(row[a] / row[b] for row in times) for a, b in ((1, 0), (2, 0), (3, 2))]
            print(
                f'{tokens:6}{matmuls:10.2f}{bare:10.2f}{ours:10.2f}{softmax:10.2f}'
                f'{ratios[0]:17.2f}{ratios[1]:14.2f}{ratios[2]:14.2f}{memory:13.1f}',
                flush=True,
            )


if __name__ == '__main__':
    with torch.no_grad():
        main()
