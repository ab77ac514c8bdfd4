"""Time the auxiliary branch against its specification and against fused softmax attention.

python tests/benchmarks/benchmark_masked_softmax.py [--rounds 9] [--tokens 400 1600]

One image each, on one thread, one after the other in each round. The table shows the medians of
forward and backward together in ms, the medians of the ratios to fused attention, how many times as
much memory as ours the specification takes, and the nonzeros. Of random q and k of a ViT-B's 12
heads the masks are full at threshold 0; at 0.02 they have a few entries; at 0.9 they are empty,
which the softmax has to say; and so they are at 0.02 where q and k are short, as in a new ViT,
which their lengths say.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from castling_det.analysis.latency import peak_memory
from castling_det.ops import masked_softmax_attention, masked_softmax_attention_naive

HEADS, DIMS = 12, 64
# threshold, and the standard deviation of the elements of q and k
CASES = ((0.0, 1.0), (0.02, 1.0), (0.9, 1.0), (0.02, 0.5))


def step(attention: Callable[..., Tensor | tuple], inputs: list[Tensor]) -> None:
    out = attention(*inputs)
    y = out[0] if isinstance(out, tuple) else out
    torch.autograd.grad(y, inputs, torch.ones_like(y))


def milliseconds(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--tokens', type=int, nargs='+', default=[400, 1024, 1600])
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f'torch {torch.__version__}, one thread, {HEADS} heads of {DIMS}, {args.rounds} rounds')
    print(
        f'{"tokens":>6}{"threshold":>10}{"std":>5}{"nonzeros":>10}{"fused":>9}{"naive":>9}{"ours":>9}'
        f'{"naive/fused":>13}{"ours/fused":>12}{"memory: naive/ours":>20}{"ours, MiB":>11}'
    )
    for tokens in args.tokens:
        for threshold, std in CASES:
            q, k, v = torch.randn(3, 1, HEADS, tokens, DIMS)
            inputs = [x.requires_grad_() for x in (std * q, std * k, v)]
            nonzeros = masked_softmax_attention(*inputs, threshold)[1].item()
            calls = [
                partial(step, F.scaled_dot_product_attention, inputs),
                partial(step, partial(masked_softmax_attention_naive, threshold=threshold), inputs),
                partial(step, partial(masked_softmax_attention, threshold=threshold), inputs),
            ]
            _, of_naive, of_ours = (peak_memory(call, 'cpu').peak for call in calls)  # warms up too
            times = [[milliseconds(call) for call in calls] for _ in range(args.rounds)]
            fused, naive, ours = (median(column) for column in zip(*times, strict=True))
            ratios = [median(row[i] / row[0] for row in times) for i in (1, 2)]
            print(
                f'{tokens:6}{threshold:10}{std:5}{nonzeros:10.3%}{fused:9.1f}{naive:9.1f}{ours:9.1f}'
                f'{ratios[0]:13.2f}{ratios[1]:12.2f}{of_naive / of_ours:20.1f}'
                f'{of_ours / 2**20:11.1f}',
                flush=True,
            )


if __name__ == '__main__':
    main()
