"""Deformable attention by rows of a table: against mmcv's form, whose place it takes."""

import inspect
import warnings
from functools import partial

import mmcv.ops.multi_scale_deform_attn as mmcv_module
import pytest
import torch
from torch import Tensor

from castling_det.analysis.latency import peak_memory
from castling_det.compat.deformable_attention import deformable_attention

SHAPES = [(4, 3), (2, 7), (5, 1)]
mmcv_form = inspect.unwrap(mmcv_module.multi_scale_deformable_attn_pytorch)


def inputs(dtype: torch.dtype, queries: int = 6, seed: int = 0) -> list[Tensor]:
    """Value, locations and weights; a quarter of the samples is beyond the borders."""
    generator = torch.Generator().manual_seed(seed)
    random = partial(torch.rand, generator=generator, dtype=torch.float64)
    pixels = sum(height * width for height, width in SHAPES)
    value = random(2, pixels, 2, 8) - 0.5
    locations = random(2, queries, 2, len(SHAPES), 4, 2) * 1.4 - 0.2
    weights = random(2, queries, 2, len(SHAPES), 4)
    return [x.to(dtype).requires_grad_() for x in (value, locations, weights)]


def output_and_grads(form, value: Tensor, locations: Tensor, weights: Tensor) -> list[Tensor]:
    output = form(value, torch.tensor(SHAPES), locations, weights)
    grad = torch.sin(torch.arange(output.numel(), dtype=output.dtype)).view_as(output)
    return [output, *torch.autograd.grad(output, (value, locations, weights), grad)]


def test_mmcv_form_is_the_one_of_mmcv():
    assert mmcv_module.multi_scale_deformable_attn_pytorch is deformable_attention
    assert mmcv_form.__module__ == mmcv_module.__name__


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_mmcv(dtype):
    values = inputs(dtype)
    tolerance = dict(rtol=1e-5, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-9, atol=1e-9)
    ours, theirs = (output_and_grads(form, *values) for form in (deformable_attention, mmcv_form))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **tolerance)


@pytest.mark.parametrize('at', [-1e9, -2.0, -0.5, 0.25, 2.5, 3.5, 5.0, 1e9])
def test_samples_on_and_beyond_the_borders(at):
    """Pixel ``at`` of the first level along each axis; at pixels' centres gradients may jump."""
    value, locations, weights = inputs(torch.float64)
    for axis, length in ((0, 3), (1, 4)):
        with torch.no_grad():
            locations[:, :, :, 0, 0, axis] = (at + 0.5) / length
    ours, theirs = (
        output_and_grads(form, value, locations, weights)
        for form in (deformable_attention, mmcv_form)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_nan_stays_nan():
    """An exploded loss is reported as such, which an index out of range would forestall."""
    value, locations, weights = inputs(torch.float32)
    with torch.no_grad():
        locations[0, 0] = torch.nan
    output, *_ = output_and_grads(deformable_attention, value, locations, weights)
    assert output[0, 0].isnan().all() and output[0, 1:].isfinite().all()


def test_low_precision_is_computed_in_float32():
    value, locations, weights = inputs(torch.float32)
    output = deformable_attention(value.bfloat16(), SHAPES, locations, weights.bfloat16())
    rounded = [x.bfloat16().float() for x in (value, weights)]
    expected = mmcv_form(rounded[0], SHAPES, locations, rounded[1])
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected.bfloat16(), rtol=0.01, atol=1e-3)


def test_samples_are_never_written():
    values = inputs(torch.float32, queries=400)
    peaks = [
        peak_memory(partial(output_and_grads, form, *values), 'cpu').peak
        for form in (deformable_attention, mmcv_form)
    ]
    assert peaks[0] < peaks[1]


def test_training_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', 'Sparse CSR tensor support is in beta state')
        output_and_grads(deformable_attention, *inputs(torch.float32))


def test_module_of_mmcv_uses_it(monkeypatch):
    torch.manual_seed(0)
    layer = mmcv_module.MultiScaleDeformableAttention(16, 2, 3, 4, dropout=0.0, batch_first=True)
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    torch.nn.init.normal_(layer.attention_weights.weight)
    x, points = torch.randn(2, 31, 16), torch.rand(2, 31, 3, 2)
    run = partial(layer, x, reference_points=points, spatial_shapes=torch.tensor(SHAPES))
    output = run()
    monkeypatch.setattr(mmcv_module, 'multi_scale_deformable_attn_pytorch', mmcv_form)
    torch.testing.assert_close(output, run(), rtol=1e-5, atol=1e-5)
