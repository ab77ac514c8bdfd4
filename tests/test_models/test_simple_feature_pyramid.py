"""The pyramid against its definition in numpy; sizes; gradients."""

import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

import castling_det  # noqa: F401  registers it


def build_neck(**config):
    torch.manual_seed(0)
    config = dict(type='SimpleFeaturePyramid', in_channels=8, out_channels=6) | config
    neck = MODELS.build(config)
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return neck


def weights(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def enlarge(x, weight, bias):
    """Every pixel becomes 2 x 2 pixels, each with a matrix of its own."""
    _, height, width = x.shape
    out = np.zeros((weight.shape[1], 2 * height, 2 * width))
    for a in (0, 1):
        for b in (0, 1):
            product = np.tensordot(weight[:, :, a, b].T, x, axes=1)
            out[:, a::2, b::2] = product + bias[:, None, None]
    return out


def norm(x, weight, bias):
    centred = x - x.mean(axis=0)
    unit = centred / np.sqrt((centred**2).mean(axis=0) + 1e-6)
    return unit * weight[:, None, None] + bias[:, None, None]


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def project(x, w):
    x = np.tensordot(w['0.weight'][:, :, 0, 0], x, axes=1)
    x = np.pad(norm(x, w['1.weight'], w['1.bias']), ((0, 0), (1, 1), (1, 1)))
    height, width = x.shape[1] - 2, x.shape[2] - 2
    out = sum(
        np.tensordot(w['2.weight'][:, :, a, b], x[:, a : a + height, b : b + width], axes=1)
        for a in range(3)
        for b in range(3)
    )
    return norm(out, w['3.weight'], w['3.bias'])


@pytest.mark.parametrize('hw', [(4, 4), (3, 5)])
def test_equals_its_definition(hw):
    neck = build_neck()
    x = torch.randn(1, 8, *hw)
    first, second = weights(neck.rescale[0]), weights(neck.rescale[1])
    image = x[0].double().numpy()
    twice = enlarge(image, first['0.weight'], first['0.bias'])
    twice = gelu(norm(twice, first['1.weight'], first['1.bias']))
    whole = np.pad(image, ((0, 0), (0, hw[0] % 2), (0, hw[1] % 2)), constant_values=-np.inf)
    quarters = whole.reshape(8, whole.shape[1] // 2, 2, whole.shape[2] // 2, 2)
    levels = [
        enlarge(twice, first['3.weight'], first['3.bias']),
        enlarge(image, second['weight'], second['bias']),
        image,
        quarters.max(axis=(2, 4)),
    ]
    with torch.no_grad():
        outs = neck((x,))
    for index, level in enumerate(levels):
        expected = project(level, weights(neck.project[index]))
        np.testing.assert_allclose(outs[index][0].numpy(), expected, atol=2e-5, rtol=1e-4)


def test_some_of_the_levels():
    """They are those of the whole pyramid, by weights of their own."""
    whole, part = build_neck(), build_neck(levels=(1, 3))
    for mine, level in enumerate((1, 3)):
        part.rescale[mine].load_state_dict(whole.rescale[level].state_dict())
        part.project[mine].load_state_dict(whole.project[level].state_dict())
    x = torch.randn(1, 8, 4, 6)
    with torch.no_grad():
        expected, outs = whole((x,)), part((x,))
    assert torch.equal(outs[0], expected[1]) and torch.equal(outs[1], expected[3])
    assert len(outs) == 2


def test_every_parameter_gets_a_gradient():
    neck = build_neck()
    outs = neck((torch.randn(2, 8, 4, 6),))
    assert [tuple(x.shape) for x in outs] == [(2, 6, 4 * s // 4, 6 * s // 4) for s in (16, 8, 4, 2)]
    sum((x * torch.randn_like(x)).sum() for x in outs).backward()
    assert [n for n, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_costs_what_its_convolutions_cost():
    from castling_det.analysis.complexity import count_complexity

    neck = MODELS.build(dict(type='SimpleFeaturePyramid', in_channels=768))
    counted = count_complexity(neck, (torch.zeros(1, 768, 10, 10),))
    cells = 10 * 10
    deconvolutions = cells * 768 * 384 * 4 * 2 + 4 * cells * 384 * 192 * 4
    one_by_one = cells * 256 * (16 * 192 + 4 * 384 + 768 + 768 // 4)
    three_by_three = cells * 9 * 256 * 256 * (16 + 4 + 1) + cells // 4 * 9 * 256 * 256
    assert counted.macs == deconvolutions + one_by_one + three_by_three
