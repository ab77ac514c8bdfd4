"""TOOD's head in code of ours against mmdet's."""

from copy import deepcopy

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.registry import init_default_scope

from castling_det.export.tood_head import open_tood_heads


@torch.no_grad()
@pytest.mark.parametrize('anchor_type', ['anchor_free', 'anchor_based'])
def test_maps_are_those_of_mmdet(anchor_type):
    """Offsets reach over several cells and beyond the maps."""
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type='TOODHead',
            num_classes=3,
            in_channels=8,
            feat_channels=8,
            stacked_convs=2,
            anchor_type=anchor_type,
            norm_cfg=dict(type='BN'),
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                strides=[8, 16],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        )
    ).eval()
    for parameter in head.parameters():
        parameter.normal_(std=0.3)
    head.reg_offset_module[-1].weight.normal_(std=0.5)
    opened = deepcopy(head)
    open_tood_heads(opened)
    maps = tuple(torch.randn(2, 8, *size) for size in ((9, 13), (5, 1)))
    assert head.reg_offset_module(torch.cat([maps[0]] * 2, dim=1)).abs().max() > 2
    for got, expected in zip(opened(maps), head(maps), strict=True):
        for level, to_be in zip(got, expected, strict=True):
            torch.testing.assert_close(level, to_be, rtol=1e-4, atol=1e-4)
