"""Whether a file computes what the trained model does, over several sizes and batches.

The judge is the model in float64. A file may be a few times as far from it as torch is in float32:
how far that is depends on the network and on how it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import ClassVar

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from castling_det.errors import InputError
from castling_det.export.graph import Graph
from castling_det.progress import tracked

Run = Callable[[Tensor], Sequence[Tensor]]

# onnxruntime's sigmoid ends at 1.5e-8, so that a score may be off by the root of it; below, all are
# as good as 0.
LEAST_SCORE = 1e-3
# Whose IoU counts: the best boxes of an image; slivers (in px) at its border are left out, unless
# all boxes are.
BEST, LEAST_SIDE = 100, 8
TIMES = 4  # as far as torch in float32; what is nearer than a kind's ``free`` is allowed to all


@dataclass(frozen=True)
class BoxAgreement:
    """How far boxes and scores are from those of the model in float64, at their worst.

    Attributes:
        boxes (float): Largest distance of a side in px.
        scores (float): Largest difference of scores.
        iou (float): Smallest IoU of one of the best boxes with itself.
    """

    boxes: float
    scores: float
    iou: float

    free: ClassVar[BoxAgreement]
    rounded: ClassVar[dict[str, BoxAgreement]]

    def __str__(self) -> str:
        sides = f'box sides differ by {self.boxes:.1e} px'
        return f'{sides}, scores by {self.scores:.1e}, least IoU {self.iou:.4f}'

    @staticmethod
    def compared(graph: Graph, outputs: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(B, N, 4)``, and scores with the factors behind them, of raw outputs too."""
        if not graph.decodes:
            outputs = graph.decode(list(outputs), *image.shape[-2:])
        boxes, *scores = outputs
        return boxes, torch.cat(scores, dim=-1)

    @classmethod
    def between(cls, got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> BoxAgreement:
        """Compare what :meth:`compared` gives."""
        (boxes, scores), (boxes_to_be, scores_to_be) = got, expected
        best = scores_to_be.amax(dim=-1).topk(min(BEST, scores.shape[1])).indices
        best = best[..., None].expand(-1, -1, 4)
        its, own = boxes.gather(1, best).double(), boxes_to_be.gather(1, best)
        wide = (own[..., 2:] - own[..., :2]).amin(dim=-1) >= LEAST_SIDE
        if not wide.any():
            wide[...] = True
        ious = bbox_overlaps(its[wide], own[wide], is_aligned=True)
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

    def allows(self) -> BoxAgreement:
        """What a file in float32 may differ by, where this is what torch in float32 does."""
        return self.free.worst(BoxAgreement(TIMES * self.boxes, TIMES * self.scores, 0.0))


@dataclass(frozen=True)
class LabelAgreement:
    """How far labels or logits are from those of the model in float64, at their worst.

    Attributes:
        logits (float): Largest difference of logits; of a file of labels, the largest margin that
            the model's label has over the file's, where they differ.
        labels (float): Share of pixels with the same label.
    """

    logits: float
    labels: float

    free: ClassVar[LabelAgreement]
    rounded: ClassVar[dict[str, LabelAgreement]]

    def __str__(self) -> str:
        labels = f'the same label at {self.labels:.3%} of the pixels'
        return f'logits differ by {self.logits:.1e}, {labels}' if self.logits else labels

    @staticmethod
    def compared(graph: Graph, outputs: Sequence[Tensor], image: Tensor) -> Tensor:
        """Labels ``(B, H, W)``, or logits ``(B, classes, H, W)``."""
        return outputs[0]

    @classmethod
    def between(cls, got: Tensor, expected: Tensor) -> LabelAgreement:
        """Compare labels or logits with logits."""
        is_labels = not got.is_floating_point()
        labels = got if is_labels else got.argmax(dim=1)
        same = (labels == expected.argmax(dim=1)).double().mean().item()
        if is_labels:
            margins = expected.amax(dim=1) - expected.gather(1, labels[:, None])[:, 0]
            return cls(margins.max().item(), same)
        return cls((got - expected).abs().max().item(), same)

    def worst(self, other: LabelAgreement) -> LabelAgreement:
        """The worse of both in each respect."""
        return LabelAgreement(max(self.logits, other.logits), min(self.labels, other.labels))

    def allows(self) -> LabelAgreement:
        """What a file in float32 may differ by, where this is what torch in float32 does."""
        return self.free.worst(LabelAgreement(TIMES * self.logits, 0.0))


@dataclass(frozen=True)
class ScoreAgreement:
    """How far a classifier's scores are from those of the model in float64, at their worst.

    Attributes:
        scores (float): Largest difference of scores, of raw outputs too.
    """

    scores: float

    free: ClassVar[ScoreAgreement]
    rounded: ClassVar[dict[str, ScoreAgreement]]

    def __str__(self) -> str:
        return f'scores differ by {self.scores:.1e}'

    @staticmethod
    def compared(graph: Graph, outputs: Sequence[Tensor], image: Tensor) -> Tensor:
        """Scores ``(B, classes)``, of raw outputs too."""
        return outputs[0] if graph.decodes else outputs[0].softmax(dim=1)

    @classmethod
    def between(cls, got: Tensor, expected: Tensor) -> ScoreAgreement:
        """Compare scores."""
        return cls((got - expected).abs().max().item())

    def worst(self, other: ScoreAgreement) -> ScoreAgreement:
        """The worse of both."""
        return ScoreAgreement(max(self.scores, other.scores))

    def allows(self) -> ScoreAgreement:
        """What a file in float32 may differ by, where this is what torch in float32 does."""
        return self.free.worst(ScoreAgreement(TIMES * self.scores))


Agreement = BoxAgreement | LabelAgreement | ScoreAgreement

KINDS = dict(
    detection=BoxAgreement, segmentation=LabelAgreement, classification=ScoreAgreement
)  # by task

BoxAgreement.free = BoxAgreement(boxes=1e-3, scores=1e-4, iou=0.0)
LabelAgreement.free = LabelAgreement(logits=1e-3, labels=0.0)
ScoreAgreement.free = ScoreAgreement(1e-4)
# Of files in float16 and in int8. A distance over 7 strides of 64 px is rounded by about 1/4 px in
# the former; the latter are compared on photos, whose ranges they were made for.
BoxAgreement.rounded = dict(
    fp16=BoxAgreement(boxes=torch.inf, scores=0.02, iou=0.9),
    int8=BoxAgreement(boxes=torch.inf, scores=0.3, iou=0.5),
)
LabelAgreement.rounded = dict(
    fp16=LabelAgreement(logits=torch.inf, labels=0.98),
    int8=LabelAgreement(logits=torch.inf, labels=0.9),
)
ScoreAgreement.rounded = dict(fp16=ScoreAgreement(0.02), int8=ScoreAgreement(0.3))


class _Doubled(TorchFunctionMode):
    """What casts to float32 on its way, as mmdet's heads do, casts to float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        func = Tensor.double if func is Tensor.float else func
        return func(*args, **(kwargs or {}))


def blurred_noise(input_size: tuple[int, int]) -> list[Tensor]:
    """Batches ``(B, 3, H, W)`` of three sizes, float32, 0 to 255, the first of ``input_size``."""
    height, width = input_size
    generator = torch.Generator().manual_seed(0)
    noise = [torch.rand(batch, 3, 9, 9, generator=generator) * 255 for batch in (1, 2, 3)]
    sizes = (height, width), (height + 7, width), (97, 65)
    return [
        F.interpolate(small, size, mode='bicubic').clamp(0, 255)
        for small, size in zip(noise, sizes, strict=True)
    ]


@torch.no_grad()
def check(
    run: Run, trained: Graph, precision: str, images: Sequence[Tensor], out: Path
) -> Agreement:
    """Hold a file against the model in float64.

    Args:
        run (Callable): Images ``(B, 3, H, W)`` to the file's outputs, before NMS.
        trained (Graph): What it comes from, in float32.
        precision (str): Of the file, 'fp32', 'fp16' or 'int8'.
        images (Sequence[Tensor]): Batches that both are given.
        out (Path): The file's name, for the message.

    Returns:
        Agreement: Of the file with the model in float64.

    Raises:
        InputError: If they differ by more than is allowed.
    """
    kind, exact = KINDS[trained.task], deepcopy(trained).double()
    found = []
    for image in tracked(images, len(images), 'batches compared with the model in float64'):
        with _Doubled():
            expected = kind.compared(exact, exact.undecided(image), image)
        its, own = (
            kind.between(kind.compared(trained, outputs, image), expected)
            for outputs in (run(image), trained.undecided(image))
        )
        batch, _, height, width = image.shape
        found.append((its, own, f'{batch} images of {height}x{width} px'))
    of_torch = reduce(kind.worst, (own for _, own, _ in found))
    allowed = of_torch.allows() if precision == 'fp32' else kind.rounded[precision]
    for its, _, images in found:
        if its.worst(allowed) != allowed:
            raise InputError(
                f'{out} is not written: for {images} it is too far from the model in float64: '
                f'{its}; allowed: {allowed}; torch in float32: {of_torch}'
            )
    return reduce(kind.worst, (its for its, _, _ in found))
