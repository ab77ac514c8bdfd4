"""Time deformable attention without compiled ops against mmcv's own form, and models with either.

python tests/benchmarks/benchmark_deformable_attention.py [--rounds 7] [--model CONFIG H W]

The sizes of Mask2Former's pixel decoder: levels at strides 8, 16 and 32, all their pixels are
queries; 8 heads of 32, 4 points. Of a segmentor the whole training step (losses and backward) of a
batch of one, and inference to the head's scores, random weights. float32, one thread; both forms
take turns in each round. The table shows medians, and medians of the ratios.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import unwrap
from statistics import median

import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from castling_det.analysis.latency import peak_memory
from castling_det.configs import build_model
from castling_det.provenance import cpu_name

mmcv_module = import_module('mmcv.ops.multi_scale_deform_attn')  # after castling_det
OURS = mmcv_module.multi_scale_deformable_attn_pytorch
FORMS = (unwrap(OURS), OURS)


def decoder_inputs(side: int) -> tuple[list[tuple[int, int]], list[Tensor]]:
    """Shapes of the levels; values, places around the queries' own, and weights."""
    shapes = [(side // stride, side // stride) for stride in (32, 16, 8)]
    pixels = sum(height * width for height, width in shapes)
    centres = [torch.cartesian_prod(*(torch.arange(n) / n for n in shape)) for shape in shapes]
    offsets = torch.randn(1, pixels, 8, 3, 4, 2) * 24 / side
    locations = torch.cat(centres).flip(1)[:, None, None, None] + offsets
    weights = torch.randn(1, pixels, 8, 12).softmax(-1).view(1, pixels, 8, 3, 4)
    inputs = torch.randn(1, pixels, 8, 32), locations, weights
    return shapes, [x.requires_grad_() for x in inputs]


def attend(shapes: list[tuple[int, int]], inputs: list[Tensor], backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        value, locations, weights = inputs
        out = mmcv_module.multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
        if backward:
            torch.autograd.grad(out, inputs, torch.ones_like(out))


def infer(model: nn.Module, image: Tensor) -> None:
    with torch.no_grad():
        model.eval()(image)


def train(model: nn.Module, image: Tensor, classes: int) -> None:
    blocks = torch.arange(image.shape[2])[:, None] // 64 + torch.arange(image.shape[3]) // 64
    sample = SegDataSample(gt_sem_seg=PixelData(data=blocks[None] % classes))
    sample.set_metainfo(dict(img_shape=image.shape[2:], pad_shape=image.shape[2:]))
    model.train().zero_grad()
    model.parse_losses(model.loss(image, [sample]))[0].backward()


def seconds(call: Callable[[], None], form: Callable) -> float:
    mmcv_module.multi_scale_deformable_attn_pytorch = form
    torch.manual_seed(0)
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def compare(name: str, call: Callable[[], None], rounds: int) -> None:
    memory = []
    for form in FORMS:  # these warm up as well
        mmcv_module.multi_scale_deformable_attn_pytorch = form
        memory.append(peak_memory(call, 'cpu').peak / 2**20)
    times = [[seconds(call, form) for form in FORMS] for _ in range(rounds)]
    theirs, ours = (1e3 * median(column) for column in zip(*times, strict=True))
    ratio = median(mmcv / own for mmcv, own in times)
    print(f'{name:44}{theirs:9.1f}{ours:9.1f}{ratio:7.2f}{memory[0]:9.0f}{memory[1]:7.0f}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--model', nargs=3, action='append', default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f'one thread of {cpu_name()}, torch {torch.__version__}, {args.rounds} rounds')
    print(f'{"":44}{"mmcv, ms":>9}{"ours":>9}{"ratio":>7}{"mmcv, MiB":>10}{"ours":>6}')
    for side in () if args.model else (256, 640):
        for name, backward in (('forward', False), ('forward and backward', True)):
            call = partial(attend, *decoder_inputs(side), backward)
            compare(f'{side} px, {name}', call, args.rounds)
    for path, height, width in args.model:
        cfg = Config.fromfile(path)
        cfg.model.data_preprocessor.size = None
        model, image = build_model(cfg), torch.randn(1, 3, int(height), int(width))
        label = f'{path.rpartition("/")[2][:20]} {height}x{width}'
        compare(f'{label}, inference', partial(infer, model, image), args.rounds)
        step = partial(train, model, image, model.decode_head.num_classes)
        compare(f'{label}, training step', step, args.rounds)


if __name__ == '__main__':
    main()
