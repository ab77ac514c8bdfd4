"""Time the attention's convolution against its specification, nn.Conv2d with a channel a head.

python tests/benchmarks/benchmark_token_conv.py

Values are cut from the projection of q, k and v, as backbones cut them. Both run on one thread, one
after the other in each round; the table shows medians in ms and the median of their ratios, of the
forward pass and of forward and backward together.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from castling_det.models.attention import TokenConv

ROUNDS = 25
# batch, heads, tokens, width of q and k, width of v: LeViT-128S at 160, 320 and 640 px (stride 16),
# DeiT-S at 512 and 1024 px, a training batch of LeViT-128S at 320 px
CASES = (
    (1, 4, 100, 16, 32),
    (1, 4, 400, 16, 32),
    (1, 4, 1600, 16, 32),
    (1, 6, 1024, 64, 64),
    (1, 6, 4096, 64, 64),
    (8, 4, 400, 16, 32),
)


def milliseconds(forward: Callable[[Tensor], Tensor], v: Tensor, weight: Tensor | None) -> float:
    """Of one forward pass, and of a backward pass too if there is a weight to differentiate by."""
    repeats = max(1, 3200 // (v.shape[0] * v.shape[2]))
    with torch.set_grad_enabled(weight is not None):
        begin = time.perf_counter()
        for _ in range(repeats):
            out = forward(v)
            if weight is not None:
                torch.autograd.grad(out, (v, weight), out)
    return 1e3 * (time.perf_counter() - begin) / repeats


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f'torch {torch.__version__}, one thread, medians of {ROUNDS} rounds')
    print(
        f'{"batch x heads x tokens x width":32}{"pass":>10}{"Conv2d":>10}{"ours":>10}{"ratio":>8}'
    )
    for batch, heads, tokens, key_dims, value_dims in CASES:
        qkv = torch.randn(batch, tokens, heads, 2 * key_dims + value_dims).transpose(1, 2)
        v = qkv[..., 2 * key_dims :].requires_grad_()
        conv = TokenConv(heads, 9)
        specification = super(TokenConv, conv).forward
        for name, weight in (('forward', None), ('both', conv.weight)):
            milliseconds(conv.forward, v, weight), milliseconds(specification, v, weight)  # warm up
            times = [
                (milliseconds(specification, v, weight), milliseconds(conv.forward, v, weight))
                for _ in range(ROUNDS)
            ]
            theirs, ours = (median(column) for column in zip(*times, strict=True))
            ratio = median(spec / own for spec, own in times)
            label = f'{batch} x {heads} x {tokens} x {value_dims}'
            print(f'{label:32}{name:>10}{theirs:>10.2f}{ours:>10.2f}{ratio:>8.1f}', flush=True)


if __name__ == '__main__':
    main()
