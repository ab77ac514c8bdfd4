"""Time a training step of a ViT with the auxiliary branch against its softmax twin's.

python tests/benchmarks/benchmark_training_step.py [--rounds 3] [--arch deit-small] [--size 640]

Forward and backward of the backbone, one image, one thread, float32, random weights. With threshold
0 all softmax entries are kept, the most work that the branch can be; at ramp 1 it is skipped. All
take turns in each round. The table shows medians in s, medians of the ratios to the twin, and what
torch allocates beyond the model and the image.
"""

import argparse
import time
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from castling_det.analysis.latency import peak_memory
from castling_det.models import CastlingViT
from castling_det.provenance import cpu_name
from castling_det.ramp import set_ramp

ARMS = {  # attention and ramp
    'softmax twin': (dict(type='SoftmaxAttention'), 0),
    'masks full': (dict(type='CastlingAttention', aux=dict(threshold=0.0)), 0),
    'threshold 0.02': (dict(type='CastlingAttention'), 0),
    'masks empty, at rest': (dict(type='CastlingAttention'), 1),
}


def step(model: nn.Module, image: Tensor) -> None:
    model.zero_grad()
    sum(each.sum() for each in model(image)).backward()


def seconds(model: nn.Module, image: Tensor) -> float:
    begin = time.perf_counter()
    step(model, image)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--arch', default='deit-small')
    parser.add_argument('--size', type=int, default=640)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {}
    for name, (attn, ramp) in ARMS.items():
        torch.manual_seed(0)
        models[name] = CastlingViT(arch=args.arch, attn=attn).train()
        if name != 'softmax twin':
            set_ramp(models[name], ramp)
    image = torch.randn(1, 3, args.size, args.size)
    memory = [peak_memory(partial(step, model, image), 'cpu').peak for model in models.values()]
    times = [[seconds(model, image) for model in models.values()] for _ in range(args.rounds)]
    print(f'{args.arch} at {args.size} px, one thread of {cpu_name()}, torch {torch.__version__}')
    print(f'{"":22}{"s":>8}{"to the twin":>13}{"memory, MiB":>13}')
    for index, name in enumerate(models):
        ratio = median(row[index] / row[0] for row in times)
        middle = median(row[index] for row in times)
        print(f'{name:22}{middle:8.2f}{ratio:13.2f}{memory[index] / 2**20:13.0f}')


if __name__ == '__main__':
    main()
