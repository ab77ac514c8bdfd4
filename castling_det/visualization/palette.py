"""Colours of classes that differ, for colour-blind eyes too."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Color = tuple[int, int, int]

# Each the farthest from those before it. The smallest distance of two in CIELAB, by normal eyes,
# with deuteranopia and with protanopia, is 21.5; 2.3 is a difference that is just seen.
COLORS: tuple[Color, ...] = (
    (224, 160, 64),
    (0, 0, 255),
    (32, 128, 160),
    (96, 32, 0),
    (160, 224, 192),
    (0, 96, 192),
    (255, 224, 0),
    (160, 192, 255),
    (128, 32, 64),
    (128, 255, 160),
    (64, 160, 128),
    (96, 96, 255),
    (160, 64, 0),
    (96, 32, 96),
    (0, 192, 192),
    (160, 160, 96),
    (0, 32, 192),
    (96, 0, 128),
    (32, 160, 255),
    (96, 255, 255),
)
_SEED = 42  # with which mmseg draws colours for a data set that brings none


def palette_of(metainfo: Mapping[str, Any]) -> list[Color]:
    """A colour (R, G, B) for each class of a data set: its own, or ours.

    It has its own where its palette has a colour for each class and was not drawn at random by
    mmseg. What mmdet leaves behind where a config renames COCO's classes, the colours of all 80, is
    none. Beyond 20 classes, ours go on at random.

    Args:
        metainfo (Mapping): ``classes`` and, perhaps, ``palette``.
    """
    number = len(metainfo['classes'])
    palette = [tuple(map(int, color)) for color in metainfo.get('palette') or ()]
    drawn = np.random.RandomState(_SEED).randint(0, 255, (number, 3))
    if len(palette) == number and not np.array_equal(palette, drawn):
        return palette
    more = np.random.RandomState(_SEED).randint(0, 256, (max(0, number - len(COLORS)), 3))
    return [*COLORS[:number], *map(tuple, more.tolist())]
