"""Stand-ins for the compiled ops of mmcv: torchvision's where it has them, PyTorch elsewhere.

The functions keep the signatures of the C++ functions, argument names included, because
``mmcv.ops`` calls them by name. ``nms``, ``softnms`` and ``ms_deform_attn_forward`` return their
result, all others write into the buffers that they are given. They run on the device of their
tensors; float16 and bfloat16 are computed in float32.

Source of the behaviour: mmcv ``ops/csrc/pytorch/cpu`` and ``ops/csrc/common/cuda``.
"""

from collections.abc import Callable
from inspect import unwrap
from typing import NoReturn

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes (Tensor): (N, 4) corners x1, y1, x2, y2 in pixels.
        scores (Tensor): (N, ) scores.
        iou_threshold (float): A box goes if its IoU with a kept box is greater.
        offset (int): 0 or 1, added to widths and heights.

    Returns:
        Tensor: (K, ) int64 indices of the kept boxes by descending score, equal scores by index.
    """
    boxes = _widened(boxes.detach(), offset)
    # In float32, as in mmcv: a box whose IoU is the threshold stays.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torchvision.ops.nms(boxes, scores.detach().to(boxes.dtype), threshold)


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
    wide, scores = _widened(boxes, offset), _in_full_precision(scores).clone()
    candidates = torch.arange(len(scores), device=scores.device)
    picked = [candidates[:0]]
    while candidates.numel():
        best = scores[candidates].max(0, keepdim=True).indices
        box = candidates[best]
        picked.append(box)
        candidates[best] = candidates[:1].clone()
        candidates = candidates[1:]
        iou = torchvision.ops.box_iou(wide[box], wide[candidates])[0].nan_to_num_(0)
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
    """RoI Align: average bilinear samples of the feature map over the bins of each region.

    A region without samples (zero or negative size and ``sampling_ratio=0``) gives 0.

    Args:
        input (Tensor): (N, C, H, W) feature map.
        rois (Tensor): (K, 5) batch index and corners x1, y1, x2, y2 in image pixels.
        output (Tensor): (K, C, PH, PW), written.
        argmax_y (Tensor): Of max pooling; left as it is.
        argmax_x (Tensor): As ``argmax_y``.
        aligned_height (int): PH.
        aligned_width (int): PW.
        spatial_scale (float): Feature map pixels per image pixel.
        sampling_ratio (int): Samples per bin and axis; 0 takes one per feature map pixel.
        pool_mode (int): 1, average.
        aligned (bool): Shift by half a pixel; otherwise regions are at least one pixel wide.

    Raises:
        NotImplementedError: ``pool_mode`` is 0, max pooling, which torchvision lacks.
    """
    _refuse_max_pooling(pool_mode)
    bins = (aligned_height, aligned_width)
    features = _in_full_precision(input)
    output.copy_(_roi_align(features, rois, bins, spatial_scale, sampling_ratio, aligned))


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
        argmax_y (Tensor): Of max pooling; has no effect.
        argmax_x (Tensor): As ``argmax_y``.
        grad_input (Tensor): (N, C, H, W), written.
        aligned_height (int): PH.
        aligned_width (int): PW.
        spatial_scale (float): As in ``roi_align_forward``.
        sampling_ratio (int): As in ``roi_align_forward``.
        pool_mode (int): 1, average.
        aligned (bool): As in ``roi_align_forward``.

    Raises:
        NotImplementedError: ``pool_mode`` is 0, max pooling.
    """
    _refuse_max_pooling(pool_mode)
    bins = (aligned_height, aligned_width)
    grad = _in_full_precision(grad_output)
    with torch.enable_grad():  # linear in the feature map, so that any map has the same gradient
        features = torch.zeros_like(grad_input, dtype=grad.dtype).requires_grad_()
        output = _roi_align(features, rois, bins, spatial_scale, sampling_ratio, aligned)
    grad_input.copy_(torch.autograd.grad(output, features, grad)[0])


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention in mmcv's own form: no GPU has run the faster one.

    Args:
        value (Tensor): (B, S, M, D), the pixels of all levels one after the other; M heads.
        value_spatial_shapes (Tensor): (L, 2) int64 height and width of each level.
        value_level_start_index (Tensor): (L, ) int64 first pixel of each level, which the shapes
            say as well; has no effect here.
        sampling_locations (Tensor): (B, Q, M, L, P, 2) x, y, where 0 and 1 are the map's borders;
            beyond them the map is 0.
        attention_weights (Tensor): (B, Q, M, L, P).
        im2col_step (int): Images per step of the compiled kernel; has no effect here.

    Returns:
        Tensor: (B, Q, M * D).
    """
    inputs = (_in_full_precision(x) for x in (value, sampling_locations, attention_weights))
    return _deformable_attention(*inputs, value_spatial_shapes).to(value.dtype)


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
    with torch.enable_grad():
        output = _deformable_attention(*inputs, value_spatial_shapes)
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
    output.copy_(_focal_loss(_in_full_precision(input), target, weight, gamma, alpha))


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
    with torch.enable_grad():
        logits = _in_full_precision(input).detach().requires_grad_()
        loss = _focal_loss(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(loss, logits)[0])


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution without a mask; kernel and groups are those of the tensors' shapes.

    Args:
        input (Tensor): (N, C, H, W).
        weight (Tensor): (K, C / group, kH, kW).
        offset (Tensor): (N, 2 * deformable_group * kH * kW, h, w), down and right, in pixels.
        output (Tensor): (N, K, h, w), written.
        columns (Tensor): Of the compiled kernel; left as it is.
        ones (Tensor): As ``columns``.
        kW (int): Width of the kernel, as ``kH`` its height.
        kH (int): See ``kW``.
        dW (int): Stride, as ``dH``.
        dH (int): See ``dW``.
        padW (int): Padding, as ``padH``.
        padH (int): See ``padW``.
        dilationW (int): As ``dilationH``.
        dilationH (int): See ``dilationW``.
        group (int): Groups of channels.
        deformable_group (int): Groups of channels that share offsets.
        im2col_step (int): Images per step of the compiled kernel; has no effect here.
    """
    geometry = ((dH, dW), (padH, padW), (dilationH, dilationW))
    output.copy_(_deform_conv(input, offset, weight, *geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of ``deform_conv_forward``, whose arguments these are, by input and offset."""
    geometry = ((dH, dW), (padH, padW), (dilationH, dilationW))
    with torch.enable_grad():
        inputs = [_in_full_precision(x).detach().requires_grad_() for x in (input, offset)]
        output = _deform_conv(*inputs, weight, *geometry)
    grads = torch.autograd.grad(output, inputs, gradOutput.to(output.dtype))
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Gradient of ``deform_conv_forward`` by the weight, times ``scale``, added to gradWeight."""
    geometry = ((dH, dW), (padH, padW), (dilationH, dilationW))
    with torch.enable_grad():
        weight = torch.zeros_like(gradWeight, dtype=_in_full_precision(input).dtype)
        output = _deform_conv(input, offset, weight.requires_grad_(), *geometry)
    (grad,) = torch.autograd.grad(output, weight, gradOutput.to(output.dtype))
    gradWeight += scale * grad


STAND_INS = (
    nms,
    softnms,
    roi_align_forward,
    roi_align_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
)


def op_without_stand_in(name: str) -> Callable:
    """A function in the place of any other op of mmcv; its call raises NotImplementedError.

    Only the call may fail: mmcv asks for each of its ops by ``hasattr`` when it is imported.
    """
    if name.startswith('__'):
        raise AttributeError(f'mmcv._ext has no attribute {name!r}')
    return lambda *_, **__: _fail(name)


def _fail(op: str) -> NoReturn:
    raise NotImplementedError(
        f'mmcv was installed without compiled ops and castling_det has no stand-in for {op!r}. '
        f'Compile mmcv beside the torch that you use (10 to 40 minutes): MMCV_WITH_OPS=1 '
        f'pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv'
    )


def _in_full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _widened(boxes: Tensor, offset: int) -> Tensor:
    # Of boxes whose right and lower side moved by the offset, areas and overlaps are mmcv's.
    return _in_full_precision(boxes) + boxes.new_tensor([0, 0, offset, offset])


def _without_dropped(candidates: Tensor, alive: Tensor) -> Tensor:
    # The C++ version drops a box by moving the last one into its place. Among boxes of equal score
    # the first is picked, so this order is part of the result.
    count = int(alive.sum())
    holes = (~alive[:count]).nonzero().squeeze(1)
    movers = alive[count:].nonzero().squeeze(1).flip(0) + count
    candidates[holes] = candidates[movers]
    return candidates[:count]


def _refuse_max_pooling(pool_mode: int) -> None:
    if pool_mode != 1:
        _fail("roi_align with pool_mode='max'")


def _roi_align(
    features: Tensor,
    rois: Tensor,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    rois = rois.to(features.dtype)
    if sampling_ratio == 0:  # of a negative number of samples torchvision makes an error
        index, start, end = rois.split([1, 2, 2], dim=1)
        rois = torch.cat([index, start, torch.maximum(start, end)], 1)
    return torchvision.ops.roi_align(features, rois, bins, spatial_scale, sampling_ratio, aligned)


def _deformable_attention(value: Tensor, at: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return unwrap(multi_scale_deformable_attn_pytorch)(value, shapes.tolist(), at, weights)


def _deform_conv(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    features, offset, weight = (_in_full_precision(x) for x in (features, offset, weight))
    return torchvision.ops.deform_conv2d(
        features, offset, weight, stride=stride, padding=padding, dilation=dilation
    )


def _focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    right = torch.where(positive, logits, -logits)  # its sigmoid is the probability of the truth
    loss = -(gamma * F.logsigmoid(-right)).exp() * F.logsigmoid(right)
    loss = loss * torch.where(positive, alpha, 1 - alpha)
    return loss * weight[target, None] if weight.numel() else loss
