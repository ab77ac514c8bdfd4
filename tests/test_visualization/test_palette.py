"""Colours that can be told apart, by normal and by colour-blind eyes."""

from itertools import combinations

import cv2
import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset

from castling_det.datasets import PALETTE
from castling_det.visualization.palette import COLORS, palette_of

# What dichromats see, in linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
EYES = {
    'normal': np.eye(3),
    'deuteranopia': [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    'protanopia': [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def smallest_distance(colors: tuple, eyes: str) -> float:
    """In CIELAB, as OpenCV computes it."""
    encoded = np.asarray(colors) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(EYES[eyes]), 0, 1)
    seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2))


@pytest.mark.parametrize('eyes', EYES)
def test_twenty_colours_differ_for_all_eyes(eyes):
    assert len(COLORS) == 20
    assert smallest_distance(COLORS, eyes) > 20
    assert smallest_distance(COLORS[:5], eyes) > 40
    assert smallest_distance(PALETTE, eyes) > 20  # of the demo


def test_a_data_set_keeps_its_own_colours():
    own = [[1, 2, 3], [4, 5, 6]]
    assert palette_of(dict(classes=('a', 'b'), palette=own)) == [(1, 2, 3), (4, 5, 6)]


def test_colours_of_other_classes_and_random_ones_are_replaced():
    assert palette_of(dict(classes=('a', 'b'))) == list(COLORS[:2])
    assert palette_of(dict(classes=('a', 'b'), palette=[(0, 0, 0)] * 80)) == list(COLORS[:2])
    names = tuple('abc')
    drawn = BaseSegDataset(metainfo=dict(classes=names), lazy_init=True).metainfo
    assert len(drawn['palette']) == 3
    assert palette_of(drawn) == list(COLORS[:3])


def test_more_than_twenty_classes_all_have_a_colour():
    colors = palette_of(dict(classes=tuple(range(150))))
    assert colors[:20] == list(COLORS) and len(set(colors)) == 150
