"""The stand-ins for mmcv's compiled ops: against plain loops, and against the compiled ops."""

import importlib
import importlib.machinery
import importlib.util
import itertools
import logging
import math
import os
import re
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from torch import Tensor

from castling_det.compat import finders, mmcv_ops

WHEELS_VARIABLE = 'CASTLING_DET_WHEELS'


@pytest.fixture(autouse=True)
def one_thread():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension out of a wheel of mmcv that was built with its ops."""
    if WHEELS_VARIABLE not in os.environ:
        pytest.skip(f'{WHEELS_VARIABLE} is not set to a folder with a compiled onedl_mmcv wheel')
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    name = f'onedl_mmcv-*-{python}-*-{sysconfig.get_platform().replace("-", "_")}.whl'
    wheels = list(Path(os.environ[WHEELS_VARIABLE]).glob(name))
    if not wheels:
        pytest.skip(f'{WHEELS_VARIABLE} is set to a folder without {name}')
    with zipfile.ZipFile(wheels[0]) as archive:
        (member,) = [member for member in archive.namelist() if member.startswith('mmcv/_ext.')]
        path = archive.extract(member, tmp_path_factory.mktemp('wheel'))
    spec = importlib.util.spec_from_file_location(finders.EXTENSION, path)
    try:
        extension = importlib.util.module_from_spec(spec)
    except ImportError as error:
        pytest.skip(f'the wheel at {WHEELS_VARIABLE} is not for torch {torch.__version__}: {error}')
    spec.loader.exec_module(extension)
    return extension


@pytest.fixture
def stand_in() -> ModuleType:
    """A fresh stand-in module that no one else sees."""
    spec = finders.StandInFinder().find_spec(finders.EXTENSION, None)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Messages(logging.Handler):
    """Collects the messages of the logger that is in use."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


# Boxes


def random_boxes(n: int) -> Tensor:
    """Crowded boxes; every eighth has no area and every eleventh is a copy of the one before."""
    corners = torch.rand(n, 2) * 40
    sizes = 8 + torch.rand(n, 2) * 12
    sizes[::8] = 0
    boxes = torch.cat([corners, corners + sizes], 1)
    boxes[10::11] = boxes[9::11][: len(boxes[10::11])]
    return boxes


def loop_iou(a: np.ndarray, b: np.ndarray, offset: int) -> np.float32:
    """IoU of two boxes in float32, NaN where both areas are 0."""
    one, zero = np.float32(offset), np.float32(0)
    w = max(zero, min(a[2], b[2]) - max(a[0], b[0]) + one)
    h = max(zero, min(a[3], b[3]) - max(a[1], b[1]) + one)
    areas = [(c[2] - c[0] + one) * (c[3] - c[1] + one) for c in (a, b)]
    with np.errstate(invalid='ignore'):
        return w * h / (areas[0] + areas[1] - w * h)


def loop_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> list[int]:
    """Greedy NMS, one pair of boxes at a time."""
    corners, threshold = boxes.numpy(), np.float32(iou_threshold)
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        if not any(loop_iou(corners[k], corners[i], offset) > threshold for k in kept):
            kept.append(i)
    return kept


def loop_softnms(
    boxes: Tensor, scores: Tensor, threshold: float, sigma: float, min_score: float, method: int
) -> tuple[list[int], list[float]]:
    """Soft-NMS without offset, one pair of boxes at a time, for scores without equals."""
    corners = boxes.numpy()
    left = dict(enumerate(scores.tolist()))
    picked, picked_scores = [], []
    while left:
        best = max(left, key=left.get)
        picked.append(best)
        picked_scores.append(left.pop(best))
        for i in list(left):
            iou = float(np.nan_to_num(loop_iou(corners[best], corners[i], 0)))
            if method == 2:
                left[i] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                left[i] *= 1 - iou if method == 1 else 0
            if left[i] < min_score:
                del left[i]
    return picked, picked_scores


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('iou_threshold', [0.0, 0.3, 0.6])
def test_nms_is_greedy(iou_threshold, offset):
    for n in (1, 2, 9, 70):
        boxes, scores = random_boxes(n), (torch.rand(n) * 20).round() / 20
        inds = mmcv_ops.nms(boxes, scores, iou_threshold, offset)
        assert inds.dtype == torch.int64
        assert inds.tolist() == loop_nms(boxes, scores, iou_threshold, offset)


def test_nms_of_nothing():
    inds = mmcv_ops.nms(torch.empty(0, 4), torch.empty(0), iou_threshold=0.5, offset=0)
    assert inds.shape == (0,) and inds.dtype == torch.int64


def test_nms_keeps_a_box_at_the_threshold():
    boxes = torch.tensor([[0.0, 0, 5, 1], [0, 0, 3, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert len(mmcv_ops.nms(boxes, scores, 0.6, 0)) == 2
    assert len(mmcv_ops.nms(boxes, scores, 0.599, 0)) == 1


def test_nms_lets_nan_boxes_alone():
    boxes, scores = random_boxes(40), torch.rand(40)
    without = mmcv_ops.nms(boxes[1:], scores[1:], 0.4, 0) + 1
    boxes[0, 2] = torch.nan
    inds = mmcv_ops.nms(boxes, scores, 0.4, 0)
    assert 0 in inds and inds[inds != 0].tolist() == without.tolist()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_nms_computes_low_precision_in_float32(dtype):
    boxes, scores = random_boxes(60).to(dtype), (torch.randperm(60) / 64).to(dtype)
    assert mmcv_ops.nms(boxes, scores, 0.4, 0).tolist() == loop_nms(
        boxes.float(), scores.float(), 0.4, 0
    )


def test_nms_takes_views_that_need_gradients():
    table = torch.cat([random_boxes(60), torch.rand(60, 1)], 1)
    expected = loop_nms(table[:, :4], table[:, 4], 0.4, 0)
    view = table.T.contiguous().T.requires_grad_()
    inds = mmcv_ops.nms(view[:, :4], view[:, 4], 0.4, 0)
    assert inds.tolist() == expected


@pytest.mark.parametrize('method', [0, 1, 2])
def test_softnms_is_the_loop(method):
    for n in (1, 2, 40):
        boxes, scores = random_boxes(n), torch.rand(n)
        before, dets = scores.clone(), torch.full((n, 5), -1.0)
        inds = mmcv_ops.softnms(boxes, scores, dets, 0.3, 0.5, 0.05, method, 0)
        picked, picked_scores = loop_softnms(boxes, scores, 0.3, 0.5, 0.05, method)
        assert inds.tolist() == picked
        torch.testing.assert_close(dets[: len(inds), :4], boxes[inds])
        torch.testing.assert_close(dets[: len(inds), 4], torch.tensor(picked_scores))
        assert (dets[len(inds) :] == -1).all() and torch.equal(scores, before)


def test_softnms_of_nothing():
    empty = torch.empty(0, 5)
    inds = mmcv_ops.softnms(empty[:, :4], empty[:, 4], empty, 0.3, 0.5, 0.05, 1, 0)
    assert inds.shape == (0,) and inds.dtype == torch.int64


# Deformable convolution


def deform_conv(
    ops: ModuleType,
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    grad_output: Tensor,
    **options,
) -> list[Tensor]:
    """Output, and the gradients by the first three; the buffers hold rubbish before."""
    options = dict(kW=weight.shape[3], kH=weight.shape[2], im2col_step=1) | options
    output, empty = torch.full_like(grad_output, 7), [features.new_empty(0)] * 2
    ops.deform_conv_forward(features, weight, offset, output, *empty, **options)
    grads = [torch.zeros_like(x) for x in (features, offset, weight)]
    ops.deform_conv_backward_input(
        features, offset, grad_output, *grads[:2], weight, empty[0], **options
    )
    ops.deform_conv_backward_parameters(
        features, offset, grad_output, grads[2], *empty, scale=1, **options
    )
    return [output, *grads]


DEFORMED = dict(dW=2, dH=1, padW=1, padH=2, dilationW=1, dilationH=2, group=2, deformable_group=2)


def deform_inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Features, offsets of up to three cells, weight, and the gradient of the output."""
    shapes = (1, 4, 9, 11), (1, 2 * 2 * 6, 9, 6), (6, 2, 3, 2), (1, 6, 9, 6)
    inputs = [torch.randn(*shape, dtype=dtype) for shape in shapes]
    inputs[1] *= 1.5
    return inputs


def test_deformable_convolution_samples_where_offsets_say():
    """By a loop over all outputs and taps; and gradients by the loop's."""
    features, offset, weight, grad_output = deform_inputs()
    inputs = [x.requires_grad_() for x in (features, offset, weight)]
    rows = []
    for n, k, y, x in itertools.product(*map(range, grad_output.shape)):
        value = 0
        for c, i, j in itertools.product(range(2), range(3), range(2)):
            channel, tap = 2 * (k // 3) + c, 2 * i + j
            down, right = offset[n, 12 * (k // 3) + 2 * tap :][:2, y, x]
            place = y - 2 + 2 * i + down, 2 * x - 1 + j + right
            value = value + weight[k, c, i, j] * zero_bilinear(features[n, channel], *place)
        rows.append(value)
    expected = torch.stack(rows).view_as(grad_output)
    grads = torch.autograd.grad(expected, inputs, grad_output)
    with torch.no_grad():
        found = deform_conv(mmcv_ops, *inputs, grad_output, **DEFORMED)
    for got, to_be in zip(found, (expected, *grads), strict=True):
        torch.testing.assert_close(got, to_be)


def zero_bilinear(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Value of (H, W) at a point; beyond the borders it is 0."""
    value = 0 * y
    corners = ((int(at.floor()), int(at.floor()) + 1) for at in (y, x))
    for row, col in itertools.product(*corners):
        if 0 <= row < plane.shape[0] and 0 <= col < plane.shape[1]:
            value = value + plane[row, col] * (1 - (y - row).abs()) * (1 - (x - col).abs())
    return value


def test_deformable_convolution_is_the_compiled_one(compiled):
    inputs = deform_inputs(torch.float32)
    got, expected = (deform_conv(ops, *inputs, **DEFORMED) for ops in (mmcv_ops, compiled))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


# RoI Align


def random_rois(n: int, batch: int, extent: float) -> Tensor:
    """Regions of many sizes, some beyond the borders."""
    centers, sizes = torch.rand(n, 2) * extent, torch.rand(n, 2) * extent * 0.8
    index = torch.randint(batch, (n, 1))
    return torch.cat([index, centers - sizes / 2, centers + sizes / 2], 1)


def roi_align(
    ops: ModuleType, features: Tensor, rois: Tensor, grad_output: Tensor, **options
) -> tuple[Tensor, Tensor]:
    """Output and gradient; the buffers hold rubbish before they are written."""
    options |= dict(aligned_height=grad_output.shape[2], aligned_width=grad_output.shape[3])
    output, argmax = torch.full_like(grad_output, 7), [grad_output.new_empty(0)] * 2
    ops.roi_align_forward(features, rois, output, *argmax, pool_mode=1, **options)
    grad_input = torch.zeros_like(features)
    ops.roi_align_backward(grad_output, rois, *argmax, grad_input, pool_mode=1, **options)
    return output, grad_input


def loop_bilinear(plane: Tensor, y: float, x: float) -> Tensor:
    """Value of (C, H, W) at a point."""
    height, width = plane.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0 * plane[:, 0, 0]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    value = 0
    for row, col in itertools.product({math.floor(y), math.ceil(y)}, {math.floor(x), math.ceil(x)}):
        value = value + plane[:, row, col] * (1 - abs(y - row)) * (1 - abs(x - col))
    return value


def loop_roi_align(
    features: Tensor,
    rois: Tensor,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoI Align, one sample at a time; differentiable by autograd."""
    output = []
    for index, *corners in rois.tolist():
        left, top, right, bottom = (c * spatial_scale - 0.5 * aligned for c in corners)
        smallest = -math.inf if aligned else 1
        bin_h = max(bottom - top, smallest) / bins[0]
        bin_w = max(right - left, smallest) / bins[1]
        grid_h, grid_w = sampling_ratio or math.ceil(bin_h), sampling_ratio or math.ceil(bin_w)
        for row, col in itertools.product(range(bins[0]), range(bins[1])):
            values = [
                loop_bilinear(
                    features[int(index)],
                    top + (row + (i + 0.5) / grid_h) * bin_h,
                    left + (col + (j + 0.5) / grid_w) * bin_w,
                )
                for i, j in itertools.product(range(grid_h), range(grid_w))
            ]
            output.append(torch.stack(values).mean(0))
    shape = (len(rois), *bins, features.shape[1])
    return torch.stack(output).view(shape).permute(0, 3, 1, 2)


ROI_MODES = list(itertools.product([0, 2], [True, False]))


@pytest.mark.parametrize(('sampling_ratio', 'aligned'), ROI_MODES)
def test_roi_align_is_the_loop(sampling_ratio, aligned):
    options = dict(spatial_scale=0.25, sampling_ratio=sampling_ratio, aligned=aligned)
    features = torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True)
    rois = random_rois(6, 2, 24).double()
    expected = loop_roi_align(features, rois, (2, 3), **options)
    grad_output = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, features, grad_output)
    output, grad = roi_align(mmcv_ops, features.detach(), rois, grad_output, **options)
    torch.testing.assert_close(output, expected.detach())
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize('sizes', [(0, 0), (-2, -2), (-2, 3), (3, -2)])
def test_roi_align_of_an_empty_region(sizes):
    rois = torch.tensor([[0.0, 2, 2, 2 + sizes[0], 2 + sizes[1]]])
    options = dict(spatial_scale=1.0, sampling_ratio=0, aligned=True)
    grad_output = torch.ones(1, 3, 2, 2)
    output, grad = roi_align(mmcv_ops, torch.rand(1, 3, 4, 4), rois, grad_output, **options)
    assert (output == 0).all() and (grad == 0).all()


def test_roi_align_without_regions():
    options = dict(spatial_scale=1.0, sampling_ratio=0, aligned=True)
    features, none = torch.rand(1, 3, 4, 4), torch.empty(0, 3, 2, 2)
    output, grad = roi_align(mmcv_ops, features, torch.empty(0, 5), none, **options)
    assert output.shape == none.shape and (grad == 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_align_in_low_precision(dtype):
    options = dict(spatial_scale=0.25, sampling_ratio=2, aligned=True)
    features, rois = torch.rand(2, 3, 7, 5).to(dtype), random_rois(4, 2, 24).to(dtype)
    grad_output = torch.rand(4, 3, 2, 2).to(dtype)
    low = roi_align(mmcv_ops, features, rois, grad_output, **options)
    full = roi_align(mmcv_ops, *(x.float() for x in (features, rois, grad_output)), **options)
    torch.testing.assert_close(low[0], full[0].to(dtype))
    torch.testing.assert_close(low[1], full[1].to(dtype), rtol=0.05, atol=0.05)


# Multi-scale deformable attention


def loop_deformable_attention(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """One sample at a time; differentiable by autograd."""
    b, queries, heads, levels, points = weights.shape
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(levels)]
    output = torch.zeros(b, queries, heads, value.shape[3], dtype=value.dtype)
    cells = itertools.product(*map(range, weights.shape))
    for i, q, m, level, point in cells:
        height, width = shapes[level]
        x, y = locations[i, q, m, level, point] * torch.tensor([width, height]) - 0.5
        for row, col in itertools.product((0, 1), (0, 1)):
            row, col = int(y.detach().floor()) + row, int(x.detach().floor()) + col
            if 0 <= row < height and 0 <= col < width:
                near = (1 - (y - row).abs()) * (1 - (x - col).abs())
                pixel = value[i, starts[level] + row * width + col, m]
                output[i, q, m] += weights[i, q, m, level, point] * near * pixel
    return output.flatten(2)


def deformable_inputs() -> tuple[list[Tensor], list[tuple[int, int]], Tensor, Tensor]:
    """Value, locations (some outside) and weights, with the levels' shapes and first pixels."""
    shapes = [(4, 3), (2, 5)]
    value = torch.randn(2, 22, 2, 3, dtype=torch.float64)
    locations = torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 3, 2, 2, 2, dtype=torch.float64)
    return [value, locations, weights], shapes, torch.tensor(shapes), torch.tensor([0, 12])


def test_deformable_attention_is_the_loop():
    inputs, shapes, shape_table, starts = deformable_inputs()
    value, locations, weights = (x.requires_grad_() for x in inputs)
    expected = loop_deformable_attention(value, shapes, locations, weights)
    grad_output = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, inputs, grad_output)

    arguments = (value, shape_table, starts, locations, weights)
    with torch.no_grad():
        output = mmcv_ops.ms_deform_attn_forward(*arguments, im2col_step=64)
        grads = [torch.zeros_like(x) for x in inputs]
        mmcv_ops.ms_deform_attn_backward(*arguments, grad_output, *grads, im2col_step=64)
    torch.testing.assert_close(output, expected.detach())
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad)


def test_deformable_attention_in_low_precision():
    inputs, _, shape_table, starts = deformable_inputs()
    value, locations, weights = (x.half() for x in inputs)
    output = mmcv_ops.ms_deform_attn_forward(value, shape_table, starts, locations, weights, 64)
    full = mmcv_ops.ms_deform_attn_forward(
        value.float(), shape_table, starts, locations.float(), weights.float(), 64
    )
    assert output.dtype == torch.float16
    torch.testing.assert_close(output, full.half())


# Focal loss


def reference_focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor | None, gamma: float, alpha: float
) -> Tensor:
    """Focal loss by way of the binary cross-entropy."""
    truth = F.one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction='none')
    p_wrong = (truth - logits.sigmoid()).abs()
    loss = (alpha * truth + (1 - alpha) * (1 - truth)) * p_wrong**gamma * entropy
    return loss if weight is None else loss * weight[target][:, None]


@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_focal_loss(gamma, weighted):
    logits = (torch.randn(12, 4, dtype=torch.float64) * 3).requires_grad_()
    target = torch.arange(12) % (4 if weighted else 5)
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    expected = reference_focal_loss(logits, target, weight, gamma, 0.3)
    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)

    given = torch.empty(0) if weight is None else weight
    output, grad = torch.zeros_like(expected), torch.zeros_like(expected)
    with torch.no_grad():
        mmcv_ops.sigmoid_focal_loss_forward(logits, target, given, output, gamma=gamma, alpha=0.3)
        mmcv_ops.sigmoid_focal_loss_backward(logits, target, given, grad, gamma=gamma, alpha=0.3)
    torch.testing.assert_close(output, expected.detach())
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_focal_loss_of_certain_predictions_is_finite(dtype, gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], dtype=dtype)
    output, grad = torch.zeros_like(logits), torch.zeros_like(logits)
    arguments = (logits, torch.tensor([0, 0]), torch.empty(0))
    mmcv_ops.sigmoid_focal_loss_forward(*arguments, output, gamma, 0.25)
    mmcv_ops.sigmoid_focal_loss_backward(*arguments, grad, gamma, 0.25)
    assert output.isfinite().all() and grad.isfinite().all()
    assert (output[0] == 0).all() and (output[1] > 20).all()


# Against the compiled ops


def test_argument_names_are_those_of_the_compiled_ops(compiled):
    for stand_in in mmcv_ops.STAND_INS:
        signature = getattr(compiled, stand_in.__name__).__doc__.splitlines()[0]
        names = re.findall(r'(\w+): ', signature)
        code = stand_in.__code__
        assert list(code.co_varnames[: code.co_argcount]) == names


@pytest.mark.parametrize('offset', [0, 1])
def test_nms_equals_the_compiled_op(compiled, offset):
    for n in (1, 30, 300, 1500):
        for iou_threshold in (0.3, 0.6):
            boxes, scores = random_boxes(n), torch.randperm(n) / n
            boxes += (torch.randint(3, (n, 1)) if n > 30 else 0) * (boxes.max() + 1)
            assert torch.equal(
                mmcv_ops.nms(boxes, scores, iou_threshold, offset),
                compiled.nms(boxes, scores, iou_threshold, offset),
            )


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', [0, 1, 2])
def test_softnms_equals_the_compiled_op(compiled, method, offset):
    for n in (1, 30, 200):
        boxes, scores = random_boxes(n), torch.rand(n)
        boxes[:, 2:] += 1  # two boxes without area give NaN in the compiled op
        if method != 2:  # exp may round differently, which would part equal scores
            scores = (scores * 20).round() / 20
        results = []
        for ops in (mmcv_ops, compiled):
            dets = torch.zeros(n, 5)
            inds = ops.softnms(boxes, scores, dets, 0.3, 0.5, 0.02, method, offset)
            results.append((inds, dets[: len(inds)]))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(('sampling_ratio', 'aligned'), ROI_MODES)
def test_roi_align_equals_the_compiled_op(compiled, sampling_ratio, aligned, dtype):
    for spatial_scale, bins in ((0.25, (7, 7)), (0.0625, (3, 5)), (1.0, (1, 2))):
        options = dict(spatial_scale=spatial_scale, sampling_ratio=sampling_ratio, aligned=aligned)
        features = torch.randn(2, 4, 19, 23, dtype=dtype)
        rois = random_rois(20, 2, 24 / spatial_scale).to(dtype)
        rois[0, 3:] = rois[0, 1:3]
        grad_output = torch.randn(20, 4, *bins, dtype=dtype)
        ours, theirs = (
            roi_align(ops, features, rois, grad_output, **options) for ops in (mmcv_ops, compiled)
        )
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


# On a GPU


@pytest.mark.gpu
def test_nms_on_a_gpu():
    boxes, scores = random_boxes(700), (torch.rand(700) * 20).round() / 20
    inds = mmcv_ops.nms(boxes.cuda(), scores.cuda(), 0.4, 0)
    assert inds.is_cuda and torch.equal(inds.cpu(), mmcv_ops.nms(boxes, scores, 0.4, 0))


@pytest.mark.gpu
@pytest.mark.parametrize(('sampling_ratio', 'aligned'), ROI_MODES)
def test_roi_align_on_a_gpu(sampling_ratio, aligned):
    options = dict(spatial_scale=0.25, sampling_ratio=sampling_ratio, aligned=aligned)
    inputs = torch.randn(2, 3, 7, 5), random_rois(6, 2, 24), torch.randn(6, 3, 2, 3)
    inputs = [x.double() for x in inputs]
    there = roi_align(mmcv_ops, *(x.cuda() for x in inputs), **options)
    for gpu, cpu in zip(there, roi_align(mmcv_ops, *inputs, **options), strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu)


@pytest.mark.gpu
def test_mmcv_deformable_attention_on_a_gpu_equals_its_cpu_path():
    finders.add_finders()
    module = importlib.import_module('mmcv.ops.multi_scale_deform_attn')
    inputs, _, shape_table, starts = deformable_inputs()
    value, locations, weights = (x.requires_grad_() for x in inputs)
    expected = module.multi_scale_deformable_attn_pytorch(value, shape_table, locations, weights)
    expected_grads = torch.autograd.grad(expected.square().sum(), inputs)

    inputs = [x.detach().cuda().requires_grad_() for x in inputs]
    output = module.MultiScaleDeformableAttnFunction.apply(
        inputs[0], shape_table.cuda(), starts.cuda(), *inputs[1:], 64
    )
    grads = torch.autograd.grad(output.square().sum(), inputs)
    torch.testing.assert_close(output.cpu(), expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad.cpu(), expected_grad)


@pytest.mark.gpu
def test_mmcv_focal_loss_on_a_gpu():
    finders.add_finders()
    sigmoid_focal_loss = importlib.import_module('mmcv.ops').sigmoid_focal_loss
    logits, target = torch.randn(12, 4, device='cuda', requires_grad=True), torch.arange(12) % 5
    loss = sigmoid_focal_loss(logits, target.cuda(), 2.0, 0.25, None, 'mean')
    expected = reference_focal_loss(logits, target.cuda(), None, 2.0, 0.25).sum() / 12
    torch.testing.assert_close(loss, expected)
    grads = [torch.autograd.grad(x, logits)[0] for x in (loss, expected)]
    torch.testing.assert_close(*grads)


# Finding the module


def test_finders_are_added_once_and_behind_the_others():
    finders.add_finders()
    finders.add_finders()
    ours = [isinstance(finder, finders.StandInFinder) for finder in sys.meta_path]
    assert sum(ours) == 1
    assert ours.index(True) > sys.meta_path.index(importlib.machinery.PathFinder)


def test_finder_finds_one_module_only():
    finder = finders.StandInFinder()
    assert finder.find_spec('mmcv._ext', None) is not None
    assert finder.find_spec('mmcv._flow_warp_ext', None) is None


def test_a_compiled_extension_wins(monkeypatch, tmp_path):
    (tmp_path / '_ext.py').write_text('compiled = True\n')
    mmcv = importlib.import_module('mmcv')
    monkeypatch.setattr(mmcv, '__path__', [str(tmp_path)])
    monkeypatch.setattr(mmcv, '_ext', None, raising=False)
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    del sys.modules['mmcv._ext']
    importlib.invalidate_caches()
    assert importlib.import_module('mmcv._ext').compiled


def test_import_logs_one_line(monkeypatch):
    mmcv = importlib.import_module('mmcv')
    monkeypatch.setattr(mmcv, '__path__', [])
    monkeypatch.setattr(mmcv, '_ext', None, raising=False)
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    del sys.modules['mmcv._ext']
    logger, messages = MMLogger.get_current_instance(), Messages()
    logger.addHandler(messages)
    try:
        first = importlib.import_module('mmcv._ext')
        assert importlib.import_module('mmcv._ext') is first
    finally:
        logger.removeHandler(messages)
    (text,) = messages.texts
    assert 'mmcv._ext is not compiled' in text and 'softnms' in text


def test_unknown_op_fails_when_called(stand_in):
    assert hasattr(stand_in, 'carafe_forward')
    with pytest.raises(NotImplementedError, match="'carafe_forward'.*MMCV_WITH_OPS=1"):
        stand_in.carafe_forward(torch.zeros(1), scale_factor=2)
    assert not hasattr(stand_in, '__wrapped__')


def test_mmcv_and_mmdet_run_on_the_stand_ins():
    folders = importlib.import_module('mmcv').__path__
    if importlib.machinery.PathFinder.find_spec('mmcv._ext', folders):
        pytest.skip('this mmcv has compiled ops')
    finders.add_finders()
    importlib.import_module('mmdet.models')
    package = importlib.import_module('mmcv.ops')
    assert sys.modules['mmcv._ext'].nms is mmcv_ops.nms

    boxes, scores, labels = random_boxes(60), torch.randperm(60) / 60, torch.arange(60) % 3
    expected = []
    for label in range(3):
        members = (labels == label).nonzero().squeeze(1)
        expected += members[loop_nms(boxes[members], scores[members], 0.5, 0)].tolist()
    expected.sort(key=lambda i: -scores[i].item())
    for split_thr in (10000, 10):
        cfg = dict(type='nms', iou_threshold=0.5, split_thr=split_thr)
        dets, keep = package.batched_nms(boxes, scores, labels, cfg)
        assert keep.tolist() == expected
        assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[keep])

    dets, inds = package.soft_nms(boxes, scores, 0.5, method='gaussian')
    assert len(dets) == len(inds) > 0

    features = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    rois = random_rois(3, 1, 20).double()
    layer = package.RoIAlign(2, spatial_scale=0.25)
    assert torch.autograd.gradcheck(lambda x: layer(x, rois), features)
    with pytest.raises(NotImplementedError, match="no stand-in for .*pool_mode='max'"):
        package.RoIAlign(2, spatial_scale=0.25, pool_mode='max')(features, rois)
