"""Whether a file computes what the trained model does, over several sizes and batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor
from torch.nn import functional as F

from castling_det.export.graph import DetectorGraph

Run = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Agreement:
    """How far a file is from torch in float32, at its worst.

    Attributes:
        boxes (float): Largest distance of a side in px.
        scores (float): Largest difference of scores.
        iou (float): Smallest IoU of one of the best boxes with itself.
    """

    boxes: float
    scores: float
    iou: float

    def __str__(self) -> str:
        return f'boxes within {self.boxes:.1e} px (IoU {self.iou:.4f}), scores {self.scores:.1e}'

    def suffices(self, allowed: 'Agreement') -> bool:
        """Whether nothing is worse than ``allowed``."""
        return (
            self.boxes <= allowed.boxes
            and self.scores <= allowed.scores
            and self.iou >= allowed.iou
        )


# What is demanded of a file. In fp16 a distance over 7 strides of 64 px is rounded by about 1/4 px.
TOLERANCES = dict(
    fp32=Agreement(boxes=1e-3, scores=1e-4, iou=0.0),
    fp16=Agreement(boxes=torch.inf, scores=0.02, iou=0.9),
)
# onnxruntime's sigmoid ends at 1.5e-8, so that a score may be off by the root of it; below, all are
# as good as 0.
LEAST_SCORE = 1e-3
# Whose IoU counts: the best boxes of an image, slivers (in px) at its border left out.
BEST, LEAST_SIDE = 100, 8


@torch.no_grad()
def check(
    run: Run, trained: DetectorGraph, precision: str, input_size: tuple[int, int], out: Path
) -> Agreement:
    """Compare a file with torch on blurred noise; the scores and the boxes of its raw outputs too.

    Args:
        run (Callable): Images ``(B, 3, H, W)`` to the file's outputs, before NMS.
        trained (DetectorGraph): What it comes from.
        precision (str): Key of ``TOLERANCES``.
        input_size (tuple[int, int]): Height and width that the file is made for.
        out (Path): The file's name, for the message.

    Raises:
        ValueError: If they differ by more than ``TOLERANCES`` allows.
    """
    height, width = input_size
    noise = torch.Generator().manual_seed(0)
    found = []
    for batch, size in ((1, (height, width)), (2, (height + 7, width)), (3, (97, 65))):
        image = torch.rand(batch, 3, 9, 9, generator=noise) * 255
        image = F.interpolate(image, size, mode='bicubic').clamp(0, 255)
        got, expected = list(run(image)), list(trained(image))
        if not trained.decodes:
            got, expected = (trained.decode(maps, *size) for maps in (got, expected))
        agreement = _compare(*got, *expected)
        if not agreement.suffices(TOLERANCES[precision]):
            raise ValueError(
                f'{out} is not written: for {batch} images of {size[0]}x{size[1]} px it differs '
                f'from torch, {agreement}; allowed: {TOLERANCES[precision]}'
            )
        found.append(agreement)
    return Agreement(
        max(each.boxes for each in found),
        max(each.scores for each in found),
        min(each.iou for each in found),
    )


def _compare(boxes: Tensor, scores: Tensor, boxes_to_be: Tensor, scores_to_be: Tensor) -> Agreement:
    best = scores_to_be.amax(dim=-1).topk(min(BEST, scores.shape[1])).indices
    best = best[..., None].expand(-1, -1, 4)
    got, expected = boxes.gather(1, best), boxes_to_be.gather(1, best)
    wide = (expected[..., 2:] - expected[..., :2]).amin(dim=-1) >= LEAST_SIDE
    ious = bbox_overlaps(got[wide], expected[wide], is_aligned=True)
    differences = scores.clamp(min=LEAST_SCORE) - scores_to_be.clamp(min=LEAST_SCORE)
    return Agreement(
        (boxes - boxes_to_be).abs().max().item(),
        differences.abs().max().item(),
        min(ious.tolist(), default=1.0),
    )
