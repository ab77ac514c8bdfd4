"""LC-PAN: sizes, data flow, gradients, parameter count."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import castling_det.detection  # noqa: F401

IN_CHANNELS = (6, 10, 14, 18)


def sizes_of(height, width):
    """Grids of strides 8, 16, 32 and 64: each halving rounds up."""
    return [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64)]


def build_neck(num_maps, out_channels=8):
    return MODELS.build(
        dict(type='LCPAN', in_channels=IN_CHANNELS[:num_maps], out_channels=out_channels)
    )


def random_maps(num_maps, height, width, batch=2):
    torch.manual_seed(0)
    return [
        torch.randn(batch, channels, *size)
        for channels, size in zip(IN_CHANNELS[:num_maps], sizes_of(height, width), strict=False)
    ]


@pytest.mark.parametrize('num_maps', [3, 4])
@pytest.mark.parametrize('image', [(320, 320), (416, 416), (99, 177)])
def test_any_image_size_gives_four_levels(num_maps, image):
    neck = build_neck(num_maps).eval()
    outs = neck(random_maps(num_maps, *image))
    assert [tuple(x.shape) for x in outs] == [(2, 8, *size) for size in sizes_of(*image)]


def test_neither_three_nor_four_inputs_raise():
    with pytest.raises(ValueError, match='3 or 4'):
        build_neck(2)


@pytest.mark.parametrize('num_maps', [3, 4])
def test_every_parameter_gets_a_gradient(num_maps):
    neck = build_neck(num_maps)
    outs = neck(random_maps(num_maps, 72, 136))
    sum((x * torch.randn_like(x)).sum() for x in outs).backward()
    assert [n for n, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []


class FirstHalf(nn.Module):
    def forward(self, x):
        return x[:, : x.shape[1] // 2]


class SecondHalf(nn.Module):
    def forward(self, x):
        return x[:, x.shape[1] // 2 :]


class EveryOther(nn.Module):
    def forward(self, x):
        return x[..., ::2, ::2]


def route(num_maps, top_down, bottom_up):
    """A neck whose convolutions are replaced by selections, so that its data flow shows."""
    neck = build_neck(num_maps)
    for name, module in (
        ('reduce', nn.Identity),
        ('top_down', top_down),
        ('bottom_up', bottom_up),
        ('downsample', EveryOther),
    ):
        modules = getattr(neck, name)
        setattr(neck, name, nn.ModuleList(module() for _ in modules))
    if num_maps == 3:
        neck.halve_input = neck.halve_output = EveryOther()
    return neck


def nearest(index, coarse, fine):
    return index * coarse // fine


def test_coarse_maps_reach_the_finest_by_nearest_neighbours():
    # 104 px: 13, 7, 4 and 2 cells, so that no level is twice the next.
    maps = [torch.randn(1, 2, *size) for size in sizes_of(104, 104)]
    outs = route(4, FirstHalf, SecondHalf)(maps)
    for row, col in [(0, 0), (12, 12), (6, 7), (11, 3)]:
        source = []
        for i in (row, col):
            for coarse, fine in ((7, 13), (4, 7), (2, 4)):
                i = nearest(i, coarse, fine)
            source.append(i)
        assert torch.equal(outs[0][0, :, row, col], maps[3][0, :, *source])
    assert torch.equal(outs[3], maps[3])


def test_fine_maps_reach_the_coarsest():
    maps = [torch.randn(1, 2, *size) for size in sizes_of(104, 104)]
    outs = route(4, SecondHalf, FirstHalf)(maps)
    assert torch.equal(outs[0], maps[0])
    assert torch.equal(outs[3], maps[0][..., ::8, ::8])


def test_fourth_level_adds_coarsest_input_and_output():
    maps = [torch.randn(1, 2, *size) for size in sizes_of(104, 104)[:3]]
    outs = route(3, SecondHalf, FirstHalf)(maps)
    assert torch.equal(outs[3], maps[2][..., ::2, ::2] + maps[0][..., ::8, ::8])


@pytest.mark.parametrize('num_maps', [3, 4])
def test_parameter_count(num_maps):
    width = 8

    def unit(inputs, outputs):  # depthwise weights, scale, shift; pointwise weights, scale, shift
        return 25 * inputs + 2 * inputs + inputs * outputs + 2 * outputs

    reduce = sum(channels * width + 2 * width for channels in IN_CHANNELS[:num_maps])
    join = unit(2 * width, 2 * width) + unit(2 * width, width)
    halve = unit(width, width)
    steps = num_maps - 1
    expected = reduce + steps * (2 * join + halve) + (2 * halve if num_maps == 3 else 0)
    assert sum(p.numel() for p in build_neck(num_maps, width).parameters()) == expected
