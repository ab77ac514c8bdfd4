"""PyTorch stand-ins for the compiled ops of mmcv, used only where mmcv has none.

``mmdet.models`` imports ``mmcv.ops``, whose modules load the extension ``mmcv._ext``. It exists
only in builds of mmcv that take 10 to 40 minutes. ``add_finder`` puts a finder for that one module
name behind all other finders: a compiled extension is found first and wins, and only where there is
none does the import end here.

The functions below keep the signatures of the C++ functions, argument names included, because
``mmcv.ops`` calls them by name. ``nms``, ``softnms`` and ``ms_deform_attn_forward`` return their
result, all others write into the buffers that they are given. They run on the device of their
tensors; float16 and bfloat16 are computed in float32.

Source of the behaviour: mmcv ``ops/csrc/pytorch/cpu`` and ``ops/csrc/common/cuda``.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from torch import Tensor

EXTENSION = 'mmcv._ext'
NMS_TILE = (256, 2048)  # `nms` decides 256 boxes together and compares them with 2048 at a time
LOWEST_MAXIMUM = -10000.0  # from which the C++ version starts max pooling


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    The boxes are decided in blocks of descending score; the kept boxes of a block then strike out
    all later boxes at once.

    Args:
        boxes (Tensor): (N, 4) corners x1, y1, x2, y2 in pixels.
        scores (Tensor): (N, ) scores.
        iou_threshold (float): A box goes if its IoU with a kept box is greater.
        offset (int): 0 or 1, added to widths and heights.

    Returns:
        Tensor: (K, ) int64 indices of the kept boxes by descending score, equal scores by index.
    """
    order = scores.detach().sort(descending=True, stable=True).indices
    later = _box_rows(boxes.detach()[order], offset)
    block_size, tile_size = NMS_TILE
    buffers = later.new_empty(3, block_size * min(max(NMS_TILE), len(order)))
    kept = [order[:0]]
    while order.numel():
        block, later = later[:, :block_size], later[:, block_size:]
        block_order, order = order[:block_size], order[block_size:]
        keep = _greedy(_iou(block, block, offset, buffers).gt_(iou_threshold).triu_(1))
        kept.append(block_order[keep])
        block = block[:, keep]
        suppressed = [
            _iou(block, tile, offset, buffers).gt_(iou_threshold).amax(0)
            for tile in later.split(tile_size, dim=1)
        ]
        survivors = (torch.cat(suppressed) == 0).nonzero().squeeze(1)
        later, order = later[:, survivors], order[survivors]
    return torch.cat(kept)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS: every picked box lowers the scores of the boxes that it overlaps.

    Boxes of zero area have no overlap (the C++ version turns their scores into NaN for method 2).

    Args:
        boxes (Tensor): (N, 4) corners x1, y1, x2, y2 in pixels.
        scores (Tensor): (N, ) scores; left as they are.
        dets (Tensor): (N, 5) output; its first K rows become the picked boxes and their scores.
        iou_threshold (float): IoU from which methods 0 and 1 lower a score.
        sigma (float): Width of the Gaussian of method 2.
        min_score (float): A box whose lowered score is under it is dropped.
        method (int): 0 naive (score to 0), 1 linear (times 1 - IoU), 2 Gaussian.
        offset (int): 0 or 1, added to widths and heights.

    Returns:
        Tensor: (K, ) int64 indices of the picked boxes in the order of picking.
    """
    rows, scores = _box_rows(boxes, offset), _in_full_precision(scores).clone()
    buffers = rows.new_empty(3, len(scores))
    candidates = torch.arange(len(scores), device=scores.device)
    picked = [candidates[:0]]
    while candidates.numel():
        best = scores[candidates].max(0, keepdim=True).indices
        box = candidates[best]
        picked.append(box)
        candidates[best] = candidates[:1].clone()
        candidates = candidates[1:]
        iou = _iou(rows[:, box], rows[:, candidates], offset, buffers)[0].nan_to_num_(0)
        if method == 2:
            weight = torch.exp(-(iou * iou) / sigma)
        else:
            lowered = 1 - iou if method == 1 else torch.zeros_like(iou)
            weight = torch.where(iou >= iou_threshold, lowered, 1)
        scores[candidates] *= weight
        candidates = _without_dropped(candidates, scores[candidates] >= min_score)
    inds = torch.cat(picked)
    dets[: len(inds), :4] = boxes[inds]
    dets[: len(inds), 4] = scores[inds]
    return inds


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoI Align: pool bilinear samples of the feature map over the bins of each region.

    A region without samples (zero or negative size and ``sampling_ratio=0``) gives 0 with average
    pooling and -10000 with max pooling, as on the CPU in C++; it raises nothing.

    Args:
        input (Tensor): (N, C, H, W) feature map.
        rois (Tensor): (K, 5) batch index and corners x1, y1, x2, y2 in image pixels.
        output (Tensor): (K, C, PH, PW), written.
        argmax_y (Tensor): Like ``output``, written with max pooling: feature map coordinate of the
            winning sample, -1 if none. Empty with average pooling.
        argmax_x (Tensor): As ``argmax_y``.
        aligned_height (int): PH.
        aligned_width (int): PW.
        spatial_scale (float): Feature map pixels per image pixel.
        sampling_ratio (int): Samples per bin and axis; 0 takes one per feature map pixel.
        pool_mode (int): 0 max, 1 average.
        aligned (bool): Shift by half a pixel; otherwise regions are at least one pixel wide.
    """
    features = _in_full_precision(input)
    bins = (aligned_height, aligned_width)
    samples = _roi_samples(features, rois, bins, spatial_scale, sampling_ratio, aligned)
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
    if pool_mode == 1:
        output.copy_(_per_roi(_average(pixels, samples), bins))
        return
    pooled, winner = _maximum(pixels, samples)
    points = torch.cat([samples.points, samples.points.new_full((1, 2), -1)])[winner]
    output.copy_(_per_roi(pooled, bins))
    argmax_x.copy_(_per_roi(points[..., 0], bins))
    argmax_y.copy_(_per_roi(points[..., 1], bins))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of RoI Align with respect to the feature map.

    Args:
        grad_output (Tensor): (K, C, PH, PW).
        rois (Tensor): As in ``roi_align_forward``.
        argmax_y (Tensor): As ``roi_align_forward`` wrote it.
        argmax_x (Tensor): As ``roi_align_forward`` wrote it.
        grad_input (Tensor): (N, C, H, W), written.
        aligned_height (int): PH.
        aligned_width (int): PW.
        spatial_scale (float): As in ``roi_align_forward``.
        sampling_ratio (int): As in ``roi_align_forward``.
        pool_mode (int): 0 max, 1 average.
        aligned (bool): As in ``roi_align_forward``.
    """
    grad = _in_full_precision(grad_output)
    features = torch.zeros_like(grad_input, dtype=grad.dtype)
    n, channels, height, width = features.shape
    if pool_mode == 1:
        bins = (aligned_height, aligned_width)
        samples = _roi_samples(features, rois, bins, spatial_scale, sampling_ratio, aligned)
        with torch.enable_grad():
            pixels = features.permute(0, 2, 3, 1).flatten(0, 2).requires_grad_()
            pooled = _average(pixels, samples)
        (pixels_grad,) = torch.autograd.grad(
            pooled, pixels, grad.permute(0, 2, 3, 1).reshape(pooled.shape)
        )
        grad_input.copy_(pixels_grad.view(n, height, width, channels).permute(0, 3, 1, 2))
        return
    points = torch.stack([argmax_x, argmax_y], -1).to(grad.dtype)
    corners, weights = _bilinear(points, height, width)
    planes = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    corners = corners + planes[:, :, None, None, None] * (height * width)
    weights = weights * ((argmax_y != -1) * grad)[..., None]
    flat_grad = features.new_zeros(features.numel())
    flat_grad.index_add_(0, corners.flatten(), weights.flatten())
    grad_input.copy_(flat_grad.view_as(grad_input))


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention: a weighted sum of bilinear samples of all levels.

    Args:
        value (Tensor): (B, S, M, D), the pixels of all levels one after the other; M heads.
        value_spatial_shapes (Tensor): (L, 2) int64 height and width of each level.
        value_level_start_index (Tensor): (L, ) int64 first pixel of each level.
        sampling_locations (Tensor): (B, Q, M, L, P, 2) x, y, where 0 and 1 are the map's borders;
            beyond them the map is 0.
        attention_weights (Tensor): (B, Q, M, L, P).
        im2col_step (int): Images per step of the compiled kernel; has no effect here.

    Returns:
        Tensor: (B, Q, M * D).
    """
    inputs = (value, sampling_locations, attention_weights)
    value_, locations, weights = (_in_full_precision(x) for x in inputs)
    output = _deformable_attention(
        value_, value_spatial_shapes, value_level_start_index, locations, weights
    )
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of ``ms_deform_attn_forward``, by autograd of the same formula.

    Args:
        value (Tensor): As in ``ms_deform_attn_forward``, like the next four.
        value_spatial_shapes (Tensor): (L, 2).
        value_level_start_index (Tensor): (L, ).
        sampling_locations (Tensor): (B, Q, M, L, P, 2).
        attention_weights (Tensor): (B, Q, M, L, P).
        grad_output (Tensor): (B, Q, M * D).
        grad_value (Tensor): Like ``value``, written.
        grad_sampling_loc (Tensor): Like ``sampling_locations``, written.
        grad_attn_weight (Tensor): Like ``attention_weights``, written.
        im2col_step (int): Has no effect here.
    """
    inputs = [
        _in_full_precision(x).detach().requires_grad_()
        for x in (value, sampling_locations, attention_weights)
    ]
    value_, locations, weights = inputs
    with torch.enable_grad():
        output = _deformable_attention(
            value_, value_spatial_shapes, value_level_start_index, locations, weights
        )
    grads = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    for buffer, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        buffer.copy_(grad)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of every (sample, class) pair on sigmoid probabilities.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N, ) int64 class; C means background, no positive class.
        weight (Tensor): (C, ) weight of a sample by its target, or empty.
        output (Tensor): (N, C), written.
        gamma (float): Focusing exponent.
        alpha (float): Weight of positives; negatives have 1 - alpha.
    """
    p, log_p, log_q, positive = _focal_terms(input, target)
    loss = torch.where(
        positive,
        -alpha * (1 - p).pow(gamma) * log_p,
        -(1 - alpha) * p.pow(gamma) * log_q,
    )
    output.copy_(loss * weight[target, None] if weight.numel() else loss)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of ``sigmoid_focal_loss_forward`` by the logits, element by element.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N, ) int64 class; C means background.
        weight (Tensor): (C, ) or empty.
        grad_input (Tensor): (N, C), written.
        gamma (float): Focusing exponent.
        alpha (float): Weight of positives; negatives have 1 - alpha.
    """
    p, log_p, log_q, positive = _focal_terms(input, target)
    grad = torch.where(
        positive,
        -alpha * (1 - p).pow(gamma) * (1 - p - gamma * p * log_p),
        (1 - alpha) * p.pow(gamma) * (p - gamma * (1 - p) * log_q),
    )
    grad_input.copy_(grad * weight[target, None] if weight.numel() else grad)


STAND_INS = (
    nms,
    softnms,
    roi_align_forward,
    roi_align_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
)


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext`` and nothing else, and fills it with the functions of this file."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for ``mmcv._ext``, None for any other module."""
        if fullname != EXTENSION:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=__file__)

    def exec_module(self, module: ModuleType) -> None:
        """Fill the new module and say so in the log."""
        for stand_in in STAND_INS:
            setattr(module, stand_in.__name__, stand_in)
        module.__getattr__ = _missing_op
        MMLogger.get_current_instance().info(
            f'{EXTENSION} is not compiled: castling_det stands in with PyTorch functions for '
            f'{", ".join(stand_in.__name__ for stand_in in STAND_INS)}'
        )


def add_finder() -> None:
    """Let ``import mmcv._ext`` end at the stand-ins where mmcv has no compiled ops.

    To be called before ``mmcv.ops`` is imported; calling it again changes nothing.
    """
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())


def _missing_op(name: str) -> Callable:
    # mmcv asks for each of its ops by hasattr at import, so only the call may fail.
    if name.startswith('__'):
        raise AttributeError(f'module {EXTENSION!r} has no attribute {name!r}')
    return lambda *_, **__: _fail(name)


def _fail(op: str) -> NoReturn:
    raise NotImplementedError(
        f'mmcv was installed without compiled ops and castling_det has no stand-in for {op!r}. '
        f'Compile mmcv beside the torch that you use (10 to 40 minutes): MMCV_WITH_OPS=1 '
        f'pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv'
    )


def _in_full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _box_rows(boxes: Tensor, offset: int) -> Tensor:
    # (N, 4) -> (5, N): -x1, -y1, x2, y2, area; negated, so that all four intersect by minimum
    x1, y1, x2, y2 = _in_full_precision(boxes).unbind(1)
    return torch.stack([-x1, -y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])


def _iou(a: Tensor, b: Tensor, offset: int, buffers: Tensor) -> Tensor:
    # (5, A) and (5, B) rows -> (A, B), rounded at the same places as in the C++ version. Written
    # into the three buffers, because fresh memory costs more time than the arithmetic.
    shape = a.shape[1], b.shape[1]
    inter, h, other = buffers[:, : shape[0] * shape[1]].view(3, *shape)
    left, top, right, bottom, area = a[:, :, None]
    b_left, b_top, b_right, b_bottom, b_area = b[:, None, :]
    torch.minimum(right, b_right, out=inter).add_(torch.minimum(left, b_left, out=other))
    torch.minimum(bottom, b_bottom, out=h).add_(torch.minimum(top, b_top, out=other))
    if offset:
        inter.add_(offset)
        h.add_(offset)
    inter.clamp_(min=0).mul_(h.clamp_(min=0))
    union = torch.add(area, b_area, out=other).sub_(inter)
    return inter.div_(union)


def _greedy(suppresses: Tensor) -> Tensor:
    # (N, N) strictly upper triangular 0 and 1 -> (N, ) bool. Repeats "kept if no kept box before me
    # suppresses me". After t rounds all boxes with shorter chains of suppressors than t are right,
    # and what a round does not change is the greedy answer.
    keep = suppresses.new_ones(len(suppresses))
    while True:
        kept_next = (keep @ suppresses == 0).to(keep.dtype)
        if torch.equal(kept_next, keep):
            return keep.bool()
        keep = kept_next


def _without_dropped(candidates: Tensor, alive: Tensor) -> Tensor:
    # The C++ version drops a box by moving the last one into its place. Among boxes of equal score
    # the first is picked, so this order is part of the result.
    count = int(alive.sum())
    holes = (~alive[:count]).nonzero().squeeze(1)
    movers = alive[count:].nonzero().squeeze(1).flip(0) + count
    candidates[holes] = candidates[movers]
    return candidates[:count]


class _Samples(NamedTuple):
    """The T sample points of all bins of all regions, bin after bin."""

    points: Tensor  # (T, 2) x, y on the feature map
    bins: Tensor  # (T, ) number of the bin that the point is in
    counts: Tensor  # (K * PH * PW, ) points per bin
    corners: Tensor  # (T, 4) rows of the pixel table around the point
    weights: Tensor  # (T, 4) bilinear weights of these rows


def _roi_samples(
    features: Tensor,
    rois: Tensor,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> _Samples:
    height, width = features.shape[2:]
    batch, boxes = rois[:, 0].long(), rois[:, 1:].to(features.dtype)
    shift = 0.5 if aligned else 0.0
    start, end = (boxes * spatial_scale - shift).split(2, dim=1)  # (K, 2) as x, y
    size = end - start if aligned else (end - start).clamp(min=1)
    bin_size = size / size.new_tensor([bins[1], bins[0]])
    if sampling_ratio > 0:
        grid = torch.full_like(bin_size, sampling_ratio, dtype=torch.long)
    else:
        grid = bin_size.float().ceil().long().clamp(min=0)

    bins_per_roi = bins[0] * bins[1]
    counts = grid.prod(1).repeat_interleave(bins_per_roi)
    bin_of = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    nth = torch.arange(len(bin_of), device=counts.device) - (counts.cumsum(0) - counts)[bin_of]
    roi = bin_of // bins_per_roi
    cell = torch.stack([bin_of % bins[1], bin_of // bins[1] % bins[0]], 1)
    inner = torch.stack([nth % grid[roi, 0], nth // grid[roi, 0]], 1)
    step = bin_size[roi]
    points = start[roi] + cell * step + (inner.to(step.dtype) + 0.5) * step / grid[roi]
    corners, weights = _bilinear(points, height, width)
    corners = corners + (batch * (height * width))[roi, None]
    return _Samples(points, bin_of, counts, corners, weights)


def _bilinear(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    # (..., 2) x, y -> pixel numbers y * width + x and weights of the four neighbours, (..., 4).
    # A point up to one pixel outside is moved to the border, one further out weighs nothing.
    x, y = points.unbind(-1)
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    x = torch.where(inside, x, 0).clamp(0, width - 1)
    y = torch.where(inside, y, 0).clamp(0, height - 1)
    x0, y0 = x.long(), y.long()
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    lx, ly = x - x0, y - y0
    hx, hy = 1 - lx, 1 - ly
    rows, cols = torch.stack([y0, y0, y1, y1], -1), torch.stack([x0, x1, x0, x1], -1)
    weights = torch.stack([hy * hx, hy * lx, ly * hx, ly * lx], -1)
    return rows * width + cols, weights * inside[..., None]


def _average(pixels: Tensor, samples: _Samples) -> Tensor:
    # (pixels of the batch, C) -> (bins, C)
    ends = samples.counts.cumsum(0)
    summed = F.embedding_bag(
        samples.corners.flatten(),
        pixels,
        4 * (ends - samples.counts),
        mode='sum',
        per_sample_weights=samples.weights.flatten(),
    )
    return summed / samples.counts.clamp(min=1)[:, None]


def _maximum(pixels: Tensor, samples: _Samples) -> tuple[Tensor, Tensor]:
    # (pixels of the batch, C) -> (bins, C) maxima and the number of the first sample that has it,
    # T if there is none
    values = F.embedding_bag(
        samples.corners, pixels, mode='sum', per_sample_weights=samples.weights
    )
    bins = samples.bins[:, None].expand_as(values)
    pooled = values.new_full((len(samples.counts), values.shape[1]), LOWEST_MAXIMUM)
    pooled = pooled.scatter_reduce(0, bins, values, 'amax')
    none = len(values)
    numbers = torch.arange(none, device=values.device)[:, None]
    wins = (values == pooled[samples.bins]) & (values > LOWEST_MAXIMUM)
    winner = torch.full_like(pooled, none, dtype=torch.long)
    return pooled, winner.scatter_reduce(0, bins, torch.where(wins, numbers, none), 'amin')


def _per_roi(table: Tensor, bins: tuple[int, int]) -> Tensor:
    # (K * PH * PW, C) -> (K, C, PH, PW)
    return table.view(-1, *bins, table.shape[1]).permute(0, 3, 1, 2)


def _deformable_attention(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    b, _, heads, dims = value.shape
    queries = sampling_locations.shape[1]
    locations = sampling_locations.permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B * M, Q, P, 2)
    weights = attention_weights.permute(3, 0, 2, 1, 4).flatten(1, 2)  # (L, B * M, Q, P)
    output = value.new_zeros(b * heads, dims, queries)
    levels = zip(spatial_shapes.tolist(), level_start_index.tolist(), strict=True)
    for level, ((height, width), start) in enumerate(levels):
        level_value = value[:, start : start + height * width].permute(0, 2, 3, 1)
        sampled = F.grid_sample(
            level_value.reshape(b * heads, dims, height, width),
            2 * locations[level] - 1,
            align_corners=False,
        )
        output = output + (sampled * weights[level, :, None]).sum(-1)
    return output.view(b, heads * dims, queries).transpose(1, 2).contiguous()


def _focal_terms(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p = _in_full_precision(input).sigmoid()
    tiny = torch.finfo(torch.float32).tiny
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    return p, p.clamp(min=tiny).log(), (1 - p).clamp(min=tiny).log(), positive
