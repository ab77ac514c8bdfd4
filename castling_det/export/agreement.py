"""Whether a file computes what the trained model does, over several sizes and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor
from torch.nn import functional as F

from castling_det.errors import InputError
from castling_det.export.graph import Graph

Run = Callable[[Tensor], Sequence[Tensor]]

# onnxruntime's sigmoid ends at 1.5e-8, so that a score may be off by the root of it; below, all are
# as good as 0.
LEAST_SCORE = 1e-3
# Whose IoU counts: the best boxes of an image; slivers (in px) at its border are left out, unless
# all boxes are.
BEST, LEAST_SIDE = 100, 8


@dataclass(frozen=True)
class BoxAgreement:
    """How far a detector's file is from torch in float32, at its worst.

    Attributes:
        boxes (float): Largest distance of a side in px.
        scores (float): Largest difference of scores.
        iou (float): Smallest IoU of one of the best boxes with itself.
    """

    boxes: float
    scores: float
    iou: float

    allowed: ClassVar[dict[str, BoxAgreement]]

    def __str__(self) -> str:
        return f'boxes within {self.boxes:.1e} px (IoU {self.iou:.4f}), scores {self.scores:.1e}'

    @classmethod
    def measure(cls, run: Run, trained: Graph, image: Tensor) -> BoxAgreement:
        """Compare boxes and scores on images, of raw outputs too."""
        got, expected = list(run(image)), list(trained(image))
        if not trained.decodes:
            got, expected = (trained.decode(maps, *image.shape[-2:]) for maps in (got, expected))
        return cls._between(*got, *expected)

    @classmethod
    def _between(
        cls, boxes: Tensor, scores: Tensor, boxes_to_be: Tensor, scores_to_be: Tensor
    ) -> BoxAgreement:
        best = scores_to_be.amax(dim=-1).topk(min(BEST, scores.shape[1])).indices
        best = best[..., None].expand(-1, -1, 4)
        got, expected = boxes.gather(1, best), boxes_to_be.gather(1, best)
        wide = (expected[..., 2:] - expected[..., :2]).amin(dim=-1) >= LEAST_SIDE
        if not wide.any():
            wide[...] = True
        ious = bbox_overlaps(got[wide], expected[wide], is_aligned=True)
        differences = scores.clamp(min=LEAST_SCORE) - scores_to_be.clamp(min=LEAST_SCORE)
        return cls(
            (boxes - boxes_to_be).abs().max().item(),
            differences.abs().max().item(),
            min(ious.tolist(), default=1.0),
        )

    def worst(self, other: BoxAgreement) -> BoxAgreement:
        """The worse of both in each respect."""
        return BoxAgreement(
            max(self.boxes, other.boxes), max(self.scores, other.scores), min(self.iou, other.iou)
        )


@dataclass(frozen=True)
class LabelAgreement:
    """How far a segmentor's file is from torch in float32, at its worst.

    Attributes:
        logits (float): Largest difference of logits; of a file of labels, the largest margin that
            torch's label has over the file's, where they differ.
        labels (float): Share of pixels with the same label.
        decodes (bool): Whether the file gives labels alone. Defaults to False.
    """

    logits: float
    labels: float
    decodes: bool = field(default=False, compare=False)

    allowed: ClassVar[dict[str, LabelAgreement]]

    def __str__(self) -> str:
        if not self.decodes:
            return f'logits within {self.logits:.1e}, labels of {self.labels:.3%} of the pixels'
        return (
            f'labels of {self.labels:.3%} of the pixels; of the others torch prefers its own by at '
            f'most {self.logits:.1e}'
        )

    @classmethod
    def measure(cls, run: Run, trained: Graph, image: Tensor) -> LabelAgreement:
        """Compare labels on images, and the logits of raw outputs."""
        (got,), expected = run(image), trained.logits(image)
        labels = got if trained.decodes else got.argmax(dim=1)
        same = (labels == expected.argmax(dim=1)).float().mean().item()
        if trained.decodes:
            margins = expected.amax(dim=1) - expected.gather(1, labels[:, None])[:, 0]
            return cls(margins.max().item(), same, decodes=True)
        return cls((got - expected).abs().max().item(), same)

    def worst(self, other: LabelAgreement) -> LabelAgreement:
        """The worse of both in each respect."""
        return LabelAgreement(
            max(self.logits, other.logits),
            min(self.labels, other.labels),
            self.decodes or other.decodes,
        )


@dataclass(frozen=True)
class ScoreAgreement:
    """How far a classifier's file is from torch in float32, at its worst.

    Attributes:
        scores (float): Largest difference of scores, of raw outputs too.
    """

    scores: float

    allowed: ClassVar[dict[str, ScoreAgreement]]

    def __str__(self) -> str:
        return f'scores within {self.scores:.1e}'

    @classmethod
    def measure(cls, run: Run, trained: Graph, image: Tensor) -> ScoreAgreement:
        """Compare scores on images."""
        (got,), (expected,) = run(image), trained(image)
        if not trained.decodes:
            got, expected = got.softmax(dim=1), expected.softmax(dim=1)
        return cls((got - expected).abs().max().item())

    def worst(self, other: ScoreAgreement) -> ScoreAgreement:
        """The worse of both."""
        return ScoreAgreement(max(self.scores, other.scores))


Agreement = BoxAgreement | LabelAgreement | ScoreAgreement

KINDS = dict(
    detection=BoxAgreement, segmentation=LabelAgreement, classification=ScoreAgreement
)  # by task

# What is demanded of a file. In fp16 a distance over 7 strides of 64 px is rounded by about 1/4 px.
BoxAgreement.allowed = dict(
    fp32=BoxAgreement(boxes=1e-3, scores=1e-4, iou=0.0),
    fp16=BoxAgreement(boxes=torch.inf, scores=0.02, iou=0.9),
)
LabelAgreement.allowed = dict(
    fp32=LabelAgreement(logits=1e-3, labels=0.0),
    fp16=LabelAgreement(logits=torch.inf, labels=0.98),
)
ScoreAgreement.allowed = dict(fp32=ScoreAgreement(1e-4), fp16=ScoreAgreement(0.02))


@torch.no_grad()
def check(
    run: Run, trained: Graph, precision: str, input_size: tuple[int, int], out: Path
) -> Agreement:
    """Compare a file with torch on blurred noise.

    Args:
        run (Callable): Images ``(B, 3, H, W)`` to the file's outputs, before NMS.
        trained (Graph): What it comes from.
        precision (str): 'fp32' or 'fp16'.
        input_size (tuple[int, int]): Height and width that the file is made for.
        out (Path): The file's name, for the message.

    Raises:
        InputError: If they differ by more than is allowed.
    """
    kind = KINDS[trained.task]
    allowed = kind.allowed[precision]
    if kind is LabelAgreement:
        allowed = replace(allowed, decodes=trained.decodes)
    height, width = input_size
    noise = torch.Generator().manual_seed(0)
    worst = None
    for batch, size in ((1, (height, width)), (2, (height + 7, width)), (3, (97, 65))):
        image = torch.rand(batch, 3, 9, 9, generator=noise) * 255
        image = F.interpolate(image, size, mode='bicubic').clamp(0, 255)
        found = kind.measure(run, trained, image)
        if found.worst(allowed) != allowed:
            raise InputError(
                f'{out} is not written: for {batch} images of {size[0]}x{size[1]} px it differs '
                f'from torch, {found}; allowed: {allowed}'
            )
        worst = found if worst is None else worst.worst(found)
    return worst
