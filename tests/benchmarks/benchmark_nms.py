"""Time the NMS stand-in against a greedy loop and, where there is one, the compiled op of mmcv.

    python tests/benchmarks/benchmark_nms.py
    CASTLING_DET_WHEELS=folder/with/onedl_mmcv/wheel python tests/benchmarks/benchmark_nms.py

The loop computes one vectorised row of IoUs per kept box, against all boxes of lower score. All
competitors run on one thread, one after the other in each repeat, and have to return the same keep
list; the table shows medians.
"""

import argparse
import importlib.util
import os
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from castling_det.compat.mmcv_ops import nms

WHEELS_VARIABLE = 'CASTLING_DET_WHEELS'
SCENES = ((1000, 250, 80), (4000, 400, 80), (4000, 1000, 80), (4000, 1000, 1))


def greedy_loop(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """The obvious NMS."""
    order = scores.sort(descending=True, stable=True).indices
    x1, y1, x2, y2 = boxes[order].unbind(1)
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    keep = torch.ones_like(order, dtype=torch.bool)
    for i in range(len(order)):
        if keep[i]:
            w = torch.minimum(x2[i], x2[i + 1 :]) - torch.maximum(x1[i], x1[i + 1 :]) + offset
            h = torch.minimum(y2[i], y2[i + 1 :]) - torch.maximum(y1[i], y1[i + 1 :]) + offset
            inter = w.clamp_(min=0).mul_(h.clamp_(min=0))
            keep[i + 1 :] &= ~(inter / (areas[i] + areas[i + 1 :] - inter) > iou_threshold)
    return order[keep]


def compiled_nms() -> Callable | None:
    """The op of the wheel in the folder that the environment variable names."""
    if WHEELS_VARIABLE not in os.environ:
        return None
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    platform = sysconfig.get_platform().replace('-', '_')
    (wheel,) = Path(os.environ[WHEELS_VARIABLE]).glob(f'onedl_mmcv-*-{python}-*-{platform}.whl')
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.startswith('mmcv/_ext.')]
        spec = importlib.util.spec_from_file_location('mmcv._ext', archive.extract(name, folder))
        extension = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(extension)
    return extension.nms


def scene(num_boxes: int, num_objects: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Jittered boxes around objects in a 416 x 416 image, classes apart as in ``batched_nms``."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(num_objects, 2, generator=generator) * 416
    sizes = 10 * 12 ** torch.rand(num_objects, 2, generator=generator)
    owner = torch.randint(num_objects, (num_boxes,), generator=generator)
    jitter = torch.randn(2, num_boxes, 2, generator=generator)
    box_centers = centers[owner] + 0.1 * sizes[owner] * jitter[0]
    box_sizes = sizes[owner] * torch.exp(0.15 * jitter[1])
    corners = [box_centers - box_sizes / 2, box_centers + box_sizes / 2]
    boxes = torch.cat(corners, 1).clamp(0, 416)
    scores = torch.randperm(num_boxes, generator=generator) / num_boxes
    return boxes + (owner % num_classes * 417)[:, None], scores


def milliseconds(function: Callable[[], Tensor], device: torch.device) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'))
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--iou-threshold', type=float, default=0.6)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    competitors = {'greedy loop': greedy_loop, 'castling_det': nms}
    compiled = compiled_nms()
    if compiled and args.device.type == 'cpu':
        competitors['mmcv compiled'] = compiled
    print(
        f'torch {torch.__version__}, {args.device}, 1 thread, IoU threshold {args.iou_threshold}, '
        f'median of {args.repeats} interleaved repeats'
    )
    print('| boxes | classes | kept | NMS | ms | times as fast as the loop |')
    print('|---|---|---|---|---|---|')
    for num_boxes, num_objects, num_classes in SCENES:
        boxes, scores = (x.to(args.device) for x in scene(num_boxes, num_objects, num_classes))
        calls = {
            name: lambda f=function, b=boxes, s=scores: f(b, s, args.iou_threshold, offset=0)
            for name, function in competitors.items()
        }
        keep = calls['greedy loop']()
        for name, call in calls.items():
            if not torch.equal(call(), keep):
                raise SystemExit(f'{name} returns another keep list than the greedy loop')
        times = {name: [] for name in calls}
        for _ in range(args.repeats):
            for name, call in calls.items():
                times[name].append(milliseconds(call, args.device))
        for name in calls:
            ratio = median(times['greedy loop']) / median(times[name])
            print(
                f'| {num_boxes} | {num_classes} | {len(keep)} | {name} '
                f'| {median(times[name]):.2f} | {ratio:.1f} |'
            )


if __name__ == '__main__':
    main()
