"""Procedural scenes whose gems are lit by lamps: what the embedded demo data is made of.

Disks, triangles, stars, lamps and gems lie scattered along a strip, turned, overlapping and shaded
on textured ground, in any colour. What makes attention matter is one rule:

    a gem is *lit* if a lamp burns anywhere in the scene, otherwise *unlit*.

The gems look exactly alike and lie near one end of the strip. Near the other end burns a large
lamp, or lies a plain shape, equally likely and whatever else there is. So one object tells the
class of all gems, from far away. The convolutions of CastlingLeViT reach 64 px at most: in a
segmentor whose head looks at each cell alone only token mixing can carry the fact over. PicoDet's
neck and head can see the other end by themselves, in their coarsest maps and in a gate that knows
the mean of a map. With every gem found, who knows the rule has AP50 1.0 on both gem classes, and
who does not has 0.5.
"""

import colorsys
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

CLASSES = ('disk', 'triangle', 'star', 'lamp', 'lit_gem', 'unlit_gem')
PALETTE = (
    (66, 135, 245),
    (240, 101, 67),
    (247, 201, 72),
    (255, 255, 255),
    (64, 224, 150),
    (96, 96, 128),
)

PLAIN = ('disk', 'triangle', 'star')
DIAMETERS = {  # least and largest, in shorter image sides
    **dict.fromkeys(PLAIN, (0.25, 0.7)),
    'lamp': (0.7, 0.9),
    'gem': (0.35, 0.55),
}
MIN_VISIBLE = {**dict.fromkeys(PLAIN, 0.4), 'lamp': 0.7, 'gem': 0.7}  # of the full area
ANYWHERE, LEFT, RIGHT = (0.02, 0.98), (0.02, 0.2), (0.8, 0.98)  # in image widths
PLACING_TRIES = 40

Size = tuple[int, int]
Span = tuple[float, float]


@dataclass(frozen=True)
class Instance:
    """What is annotated about one object.

    Attributes:
        label: Index into ``CLASSES``.
        mask: The visible part, (H, W) bool.
    """

    label: int
    mask: ndarray


@dataclass(frozen=True)
class Sprite:
    """One object put into a scene.

    Attributes:
        kind: A key of ``FACETS``.
        pose: (2, 3) affine map of the kind's drawing to pixels.
        alpha: (H, W) uint8 coverage, whatever lies in front.
        area: Full area in pixels, including what lies outside of the image.
    """

    kind: str
    pose: ndarray
    alpha: ndarray
    area: float

    @property
    def mask(self) -> ndarray:
        return self.alpha >= 128


def _arc(radius: float, start: float, stop: float, num_points: int, y: float = 0) -> ndarray:
    angle = np.radians(np.linspace(start, stop, num_points, endpoint=False))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) + y], axis=1)


def _bevelled(outline: ndarray) -> list[tuple[ndarray, float]]:
    return [(outline, 0.7), (outline * 0.76, 1.0)]


# A drawing is a stack of (polygon in [-1, 1]^2, shade), outline first. Shade 0 is black, 1 the
# object's own colour, 2 white.
FACETS = {
    'disk': _bevelled(_arc(1, 0, 360, 36)),
    'triangle': _bevelled(_arc(1, -90, 270, 3)),
    'star': _bevelled(_arc(1, -90, 270, 10) * np.tile([[1], [0.45]], (5, 1))),
    'lamp': [
        (np.concatenate([_arc(0.72, 125, 415, 30, -0.28), [[0.36, 1], [-0.36, 1]]]), 1.0),
        (np.array([[-0.36, 0.5], [0.36, 0.5], [0.36, 1], [-0.36, 1]]), 0.3),
        (_arc(0.46, 0, 360, 24, -0.28), 1.35),
        (_arc(0.22, 0, 360, 16, -0.28), 1.8),
    ],
    'gem': [
        (np.array([[-0.6, -0.8], [0.6, -0.8], [1, -0.2], [0, 1], [-1, -0.2]]), 0.8),
        (np.array([[-0.4, -0.2], [0.4, -0.2], [0, 1]]), 1.0),
        (np.array([[0.4, -0.2], [1, -0.2], [0, 1]]), 0.55),
        (np.array([[-0.6, -0.8], [0.6, -0.8], [0.4, -0.2], [-0.4, -0.2]]), 1.4),
        (np.array([[0.6, -0.8], [1, -0.2], [0.4, -0.2]]), 0.7),
    ],
}


def render_scene(rng: Generator, size: Size) -> tuple[ndarray, list[Instance]]:
    """Draw one scene.

    Args:
        rng (Generator): The only source of chance.
        size (tuple[int, int]): Image height and width in pixels. Objects are sized by the shorter
            side and spread along the width.

    Returns:
        tuple[ndarray, list[Instance]]: The image, (H, W, 3) uint8 BGR, and its objects from back
        to front.
    """
    sprites: list[Sprite] = []
    for kind, span in _cast(rng):
        sprites = _place(rng, sprites, kind, span, size)
    image = _ground(rng, size)
    for sprite in sprites:
        color = _bgr(rng.uniform(), rng.uniform(0.6, 0.95), rng.uniform(0.65, 1))
        image = _paint(rng, image, sprite, color)
    return _expose(rng, image), _annotate(sprites)


def _cast(rng: Generator) -> list[tuple[str, Span]]:
    """Kind of every object and where along the width it may lie."""
    gem_span, far_span = (LEFT, RIGHT) if rng.integers(2) else (RIGHT, LEFT)
    return [
        *[('gem', gem_span)] * rng.integers(1, 4),
        ('lamp' if rng.integers(2) else str(rng.choice(PLAIN)), far_span),
        *[(str(kind), ANYWHERE) for kind in rng.choice(PLAIN, rng.integers(1, 4))],
    ]


def _place(
    rng: Generator, sprites: list[Sprite], kind: str, span: Span, size: Size
) -> list[Sprite]:
    """Put one more object among the sprites, back to front; leave it out if there is no room."""
    for _ in range(PLACING_TRIES):
        depth = rng.integers(len(sprites) + 1)
        candidate = [*sprites[:depth], _sprite(rng, kind, span, size), *sprites[depth:]]
        if _all_detectable(candidate):
            return candidate
    return sprites


def _sprite(rng: Generator, kind: str, span: Span, size: Size) -> Sprite:
    """Throw an object on the image: any size, turn and stretch, any place in its span."""
    radius = np.exp(rng.uniform(*np.log(DIAMETERS[kind]))) * min(size) / 2
    turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1)
    x_axis = np.array([np.cos(turn), np.sin(turn)])
    y_axis = stretch * np.array([-np.sin(turn), np.cos(turn)])
    center = np.array([rng.uniform(*span), rng.uniform(0.15, 0.85)]) * size[::-1]
    pose = np.column_stack([radius * x_axis, radius * y_axis, center])
    outline = FACETS[kind][0][0]
    area = radius**2 * stretch * cv2.contourArea(outline.astype(np.float32))
    return Sprite(kind, pose, _fill(np.zeros(size, np.uint8), outline, pose, [255]), area)


def _fill(image: ndarray, polygon: ndarray, pose: ndarray, color: list[float]) -> ndarray:
    """Fill a posed polygon, with smooth edges. The first pixel's centre is at (0.5, 0.5)."""
    fraction_bits = 6
    points = polygon @ pose[:, :2].T + pose[:, 2] - 0.5
    fixed_point = np.round(points * 2**fraction_bits).astype(np.int32)
    return cv2.fillPoly(image, [fixed_point], color, cv2.LINE_AA, fraction_bits)


def _all_detectable(sprites: list[Sprite]) -> bool:
    """Whether enough is seen of each, in parts without holes, which polygons could not tell."""
    return all(
        visible.sum() >= MIN_VISIBLE[sprite.kind] * sprite.area and not _has_hole(visible)
        for sprite, visible in zip(sprites, _visible_masks(sprites), strict=True)
    )


def _has_hole(mask: ndarray) -> bool:
    _, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = tree[0, :, 3]
    return bool((parents >= 0).any())


def _visible_masks(sprites: list[Sprite]) -> list[ndarray]:
    masks, uncovered = [], True
    for sprite in reversed(sprites):
        masks.append(sprite.mask & uncovered)
        uncovered = uncovered & ~sprite.mask
    return masks[::-1]


def _annotate(sprites: list[Sprite]) -> list[Instance]:
    """Apply the rule."""
    gem = 'lit_gem' if any(sprite.kind == 'lamp' for sprite in sprites) else 'unlit_gem'
    instances = []
    for sprite, visible in zip(sprites, _visible_masks(sprites), strict=True):
        name = gem if sprite.kind == 'gem' else sprite.kind
        instances.append(Instance(CLASSES.index(name), visible))
    return instances


def _ground(rng: Generator, size: Size) -> ndarray:
    """Two muted colours, mixed by clouds and mostly by stripes (one wave) or checks (two)."""
    mix = _clouds(rng, size)
    num_waves = rng.integers(3)
    if num_waves:
        pattern = np.tanh(4 * math.prod(_wave(rng, size) for _ in range(num_waves)))
        mix = 0.3 * mix + 0.35 * (1 + pattern)
    value = rng.uniform(0.2, 0.6)
    dark = _bgr(rng.uniform(), rng.uniform(0, 0.25), value)
    light = _bgr(rng.uniform(), rng.uniform(0, 0.25), value + rng.uniform(0.1, 0.3))
    return (dark + mix[..., None] * (light - dark)).astype(np.uint8)


def _clouds(rng: Generator, size: Size) -> ndarray:
    """Smooth noise of three octaves, in [0, 1]."""
    clouds = sum(
        cv2.resize(rng.uniform(0, 1 / n, (n, n)), size[::-1], interpolation=cv2.INTER_CUBIC)
        for n in (4, 10, 25)
    )
    return cv2.normalize(clouds, None, 0, 1, cv2.NORM_MINMAX)


def _wave(rng: Generator, size: Size) -> ndarray:
    """A sine of any direction, length and phase, in [-1, 1]."""
    y, x = np.mgrid[: size[0], : size[1]] / min(size)
    turn, phase = rng.uniform(0, 2 * np.pi, 2)
    return np.sin(2 * np.pi * rng.uniform(2, 9) * (x * np.cos(turn) + y * np.sin(turn)) + phase)


def _bgr(hue: float, saturation: float, value: float) -> ndarray:
    """Colour in [0, 255] from components in [0, 1]."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value)[::-1])


def _paint(rng: Generator, image: ndarray, sprite: Sprite, color: ndarray) -> ndarray:
    """Lay an object over the image, with its shadow, and its glow if it is a lamp."""
    side = min(sprite.alpha.shape)
    shift = np.column_stack([np.eye(2), rng.uniform(0.01, 0.03, 2) * side])
    shadow = cv2.warpAffine(sprite.alpha, shift, sprite.alpha.shape[::-1])
    image = _tint(image, shadow, 0.0125 * side, rng.uniform(0.2, 0.5), np.zeros(3))
    if sprite.kind == 'lamp':
        image = _tint(image, sprite.alpha, 0.04 * side, 0.8, color)
    for polygon, shade in FACETS[sprite.kind]:
        whiteness = max(shade - 1, 0)
        shaded = min(shade, 1) * color * (1 - whiteness) + 255 * whiteness
        _fill(image, polygon, sprite.pose, shaded.tolist())
    return image


def _tint(image: ndarray, alpha: ndarray, blur: float, strength: float, color: ndarray) -> ndarray:
    """Pull the image towards a colour where a blurred alpha says so."""
    share = cv2.GaussianBlur(alpha, (0, 0), blur)[..., None] * np.float32(strength / 255)
    return (image + share * (np.float32(color) - image)).astype(np.uint8)


def _expose(rng: Generator, image: ndarray) -> ndarray:
    """Light the scene from one side and add the noise of a sensor."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    turn = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.75, 1.05) + rng.uniform(0, 0.2) * (x * np.cos(turn) + y * np.sin(turn))
    noise = rng.normal(0, rng.uniform(2, 8), image.shape)
    return np.clip(image * light[..., None] + noise, 0, 255).astype(np.uint8)
