"""Pooling to a grid against torch's own."""

import torch
from torch import nn

from castling_det.export.adaptive_pool import AdaptivePool, open_adaptive_pools


def test_grids_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    for size in (2, 3, 6, (2, 5)):
        for height, width in ((12, 18), (7, 25), (4, 1)):
            x = torch.rand(2, 3, height, width, generator=generator)
            expected = nn.functional.adaptive_avg_pool2d(x, size)
            torch.testing.assert_close(AdaptivePool(size)(x), expected)
    assert AdaptivePool(2)(x.half()).dtype == torch.float16


def test_global_pooling_stays():
    model = nn.ModuleList([nn.Sequential(nn.AdaptiveAvgPool2d(size)) for size in (1, (1, 1), 2)])
    open_adaptive_pools(model)
    assert [type(each[0]) for each in model] == [
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveAvgPool2d,
        AdaptivePool,
    ]
